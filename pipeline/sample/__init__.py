"""Step 2: a video -> clips of sampled frames, none across a shot cut."""
