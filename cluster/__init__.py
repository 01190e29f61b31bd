"""Where the work runs, and the whole workflow as one job."""

import corrfractal.runtime  # noqa: F401  (settles the environment before anything here imports Ray)
