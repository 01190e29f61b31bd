"""Step 4: clips and labels -> shards on Ray, and the manifest over all of them."""
