"""Videos -> shards of clips and pseudo-labels."""
