"""Step 1: sources -> segments -> plan of shards."""
