"""Where the work runs, and the whole workflow as one job."""
