"""Self-supervised dense video correspondence: the method of CorrFractal and the names to build on.

    import corrfractal

    model = corrfractal.CorrFractal.load("starter")
    for frame in model.propagate("clip.mp4", "first.png"):
        print(frame.index, frame.time, frame.objects)  # and frame.mask, uint8 (H, W)

- ``CorrFractal``, ``CorrFractalConfig``: the network. ``CorrFractal.load`` reads a model,
  ``propagate`` tracks objects through a video, ``tracker`` through any frames.
- ``FrameMask``, ``TrackerConfig``: what ``propagate`` yields; how labels are propagated.
- ``open_video``: read a video as every command reads it.
- ``shards.open``, ``shards.open_webdataset``: read clips and pseudo-labels.
- ``evaluate``: score a model on a benchmark.
- ``hadamard_responses``, ``quantize_clip``, ``restricted_attention``: the steps of the method.

``docs/reference/python.md`` documents these names; they change only with a decision record.
``docs/explanation/method.md`` leads from the paper to the code. The names are imported at their
first use, so that ``corrfractal --help`` does not load PyTorch.
"""

from __future__ import annotations

import sys

# `python -m corrfractal` puts the working folder first on the search path; drop it before anything
# else is imported.
if sys.argv[:1] == ["-m"]:
    from corrfractal.runtime import search_path as _search_path  # noqa: F401

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corrfractal import shards
    from corrfractal.labels.hadamard import hadamard_responses
    from corrfractal.labels.quantization import quantize_clip
    from corrfractal.network.attention import restricted_attention
    from corrfractal.network.frame_masks import FrameMask
    from corrfractal.network.model import CorrFractal, CorrFractalConfig
    from corrfractal.network.tracker_config import TrackerConfig
    from corrfractal.video.reader import open_video
    from inference.public import evaluate

__version__ = "0.1.0"

__all__ = [
    "CorrFractal",
    "CorrFractalConfig",
    "FrameMask",
    "TrackerConfig",
    "evaluate",
    "hadamard_responses",
    "open_video",
    "quantize_clip",
    "restricted_attention",
    "shards",
]

# name: module. `evaluate` is in a layer above this one, which therefore is named as text only.
_HOME = {
    "CorrFractal": "corrfractal.network.model",
    "CorrFractalConfig": "corrfractal.network.model",
    "FrameMask": "corrfractal.network.frame_masks",
    "TrackerConfig": "corrfractal.network.tracker_config",
    "evaluate": "inference.public",
    "hadamard_responses": "corrfractal.labels.hadamard",
    "open_video": "corrfractal.video.reader",
    "quantize_clip": "corrfractal.labels.quantization",
    "restricted_attention": "corrfractal.network.attention",
}


def __getattr__(name: str) -> Any:
    if name == "shards":
        return importlib.import_module("corrfractal.shards")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
