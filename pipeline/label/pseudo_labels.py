"""A clip -> its views of pseudo-labels, and their statistics (III-A)."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from corrfractal.labels.loops import count_labels
from corrfractal.labels.quantization import Codebook, quantize_clip
from corrfractal.shards.manifest import LabelStatistics
from pipeline.config import PipelineConfig

U8 = npt.NDArray[np.uint8]


def label_views(frames: U8, key: str, config: PipelineConfig) -> tuple[U8, list[Codebook]]:
    """Label sets of a clip.

    Args:
        frames: uint8 (T, H, W, 3) RGB.
        key: the clip's key; with the configured seed and the view it decides all random draws.
        config: how to label.

    Returns:
        uint8 (V, T, H, W) in 0 .. K-1, and one codebook a view.
    """
    device = {"cpu": None, "torch": "cpu", "cuda": "cuda"}[config.device]
    seeds = (view_seed(config.seed, key, view) for view in range(config.views))
    views = [quantize_clip(frames, config.quantization, seed, device=device) for seed in seeds]
    return np.stack([labels for labels, _ in views]), [codebook for _, codebook in views]


def view_seed(seed: int, key: str, view: int) -> int:
    """Seed of one view, 0 .. 2^63 - 1; a hash, so that it owes nothing to the order of work."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}/{view}".encode()).digest()[:8]) >> 1


def label_statistics(labels: U8) -> LabelStatistics:
    """Statistics of one clip's labels, uint8 (V, T, H, W)."""
    return sum((_view_statistics(view) for view in labels), LabelStatistics())


def _view_statistics(view: U8) -> LabelStatistics:
    counts, used = np.zeros(16, dtype=np.int64), np.zeros(16, dtype=int)
    changed, compared = int(count_labels(view, counts)), view[1:].size
    ranked = np.sort(counts)[::-1]
    used[np.count_nonzero(ranked) - 1] = 1
    return LabelStatistics(
        by_rank=tuple(ranked.tolist()),
        by_used=tuple(used.tolist()),
        dominated=int(10 * ranked[0] > 9 * view.size),
        still=int(100 * changed < compared),
        compared=compared,
        changed=changed,
    )
