"""The method of CorrFractal: pattern-boosted quantisation, backbone with aggregation, fractal
affinity, multi-density correspondence. ``docs/explanation/method.md`` leads from the paper to the
code.

The public names are imported at their first use, so that ``corrfractal --help`` does not load
PyTorch.
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
    from corrfractal.labels.hadamard import hadamard_responses
    from corrfractal.labels.quantization import quantize_clip
    from corrfractal.network.attention import restricted_attention
    from corrfractal.network.model import CorrFractal, CorrFractalConfig

__version__ = "0.1.0"

__all__ = [
    "CorrFractal",
    "CorrFractalConfig",
    "hadamard_responses",
    "quantize_clip",
    "restricted_attention",
]

_HOME = {
    "CorrFractal": "network.model",
    "CorrFractalConfig": "network.model",
    "hadamard_responses": "labels.hadamard",
    "quantize_clip": "labels.quantization",
    "restricted_attention": "network.attention",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
