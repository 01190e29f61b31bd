"""A local Ray cluster of several processes, and jobs on any Ray cluster."""
