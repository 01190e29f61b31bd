"""Evaluation protocols of the field, over one base class."""
