"""Videos -> shards of clips with pseudo-labels. ``run.precompute`` is the entry; the other files know no Ray."""
