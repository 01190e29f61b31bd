"""What is on disk: stored clips, sidecars and the manifest. The pipeline writes it, training reads
it."""
