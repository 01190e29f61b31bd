"""Step 1: sources -> segments -> work plan of shards."""
