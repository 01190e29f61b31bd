"""Where the files of each evaluation set are stored, and how they are read."""
