"""`corrfractal doctor`: measurements of this machine, and what to do about each fault."""
