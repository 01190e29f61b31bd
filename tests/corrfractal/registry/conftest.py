"""A store with two trained versions, made by the fixtures of the training's tests."""

from __future__ import annotations

from tests.training.conftest import registered, store, tiny_shards, tiny_videos

__all__ = ["registered", "store", "tiny_shards", "tiny_videos"]
