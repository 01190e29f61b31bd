"""Evaluation protocols of the field, run by one loop (``base.py``)."""
