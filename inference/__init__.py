"""A registered model -> masks, scores, report."""

import corrfractal.runtime  # noqa: F401  (settles the environment before anything here imports Ray)
