"""Step 3: clips -> pseudo-labels, and their health."""
