"""HTML reports of an evaluation, and their pictures."""
