"""What is stored on disk: clips, sidecars and the manifest. The pipeline writes, training reads.

- ``open(folder)``: the clips as a sequence.
- ``manifest.load_manifest(folder)``: what a folder of shards contains, local or at a URI.
- ``index.Index(folder, manifest)``: shards, clips and sources as columns.
- ``clip.read_members(block)``, ``clip.decode_clip(members)``: from stored bytes to arrays.
- ``open_webdataset(folder)``: a ready ``webdataset.WebDataset``, to train something else on clips.
- ``clip.encode_clip(clip)``, ``manifest.seal(document)``: the opposite direction.

A damaged file raises ``corrfractal.common.errors.IntegrityError``; docs/reference/format.md
describes the format for readers without this package. Example, the first clip of a data set::

    import corrfractal
    clip = corrfractal.shards.open("shards")[0]
    print(clip.key, clip.frames.shape, clip.labels.shape)  # uint8 (T, H, W, 3), (V, T, H, W)

The names of ``__all__`` are imported on first use: reading a manifest loads no image library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corrfractal.shards.clip import Clip
    from corrfractal.shards.clip_set import ClipSet
    from corrfractal.shards.clip_set import open_clips as open
    from corrfractal.shards.streaming import open_webdataset

__all__ = ["Clip", "ClipSet", "open", "open_webdataset"]

_HOME = {
    "Clip": ("clip", "Clip"),
    "ClipSet": ("clip_set", "ClipSet"),
    "open": ("clip_set", "open_clips"),
    "open_webdataset": ("streaming", "open_webdataset"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(f".{module}", __name__), attribute)
