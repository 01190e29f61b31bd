"""Shards -> batches, in an order that is arithmetic."""
