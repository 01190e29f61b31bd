"""Videos -> shards of clips and pseudo-labels."""

import corrfractal.runtime  # noqa: F401  (settles the environment before anything here imports Ray)
