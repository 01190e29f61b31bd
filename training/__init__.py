"""Shards -> a trained, registered model."""

import corrfractal.runtime  # noqa: F401  (settles the environment before anything here imports Ray)
