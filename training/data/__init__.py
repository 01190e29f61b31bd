"""Shards -> batches, in an order computed from the seed."""
