"""Pseudo-labels (section III-A): Walsh-Hadamard responses, ab channels, boosted k-means."""
