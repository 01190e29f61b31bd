"""Files, local and at URIs: atomic writes, listings, and outputs that never touch inputs."""
