"""Step 4: clips and labels -> shards, and the manifest over all of them."""
