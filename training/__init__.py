"""Shards -> a trained, registered model."""
