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

MAX_LABELS = 16  # label maps are stored with 4 bits a pixel


def label_views(frames: U8, key: str, config: PipelineConfig) -> tuple[U8, list[Codebook]]:
    """Make the label sets of a clip.

    Args:
        frames: uint8 (T, H, W, 3) RGB.
        key: the clip's key; key, configured seed and view number decide all random draws.
        config: how to label.

    Returns:
        uint8 (V, T, H, W) in 0 .. K-1, and one codebook per view.
    """
    label_sets = []
    codebooks = []
    for view in range(config.views):
        seed = view_seed(config.seed, key, view)
        labels, codebook = quantize_clip(
            frames, config.quantization, seed, device=config.torch_device
        )
        label_sets.append(labels)
        codebooks.append(codebook)
    return np.stack(label_sets), codebooks


def view_seed(seed: int, key: str, view: int) -> int:
    """Seed of one view, 0 .. 2^63 - 1: a hash, so it is independent of the order of work."""
    hashed = hashlib.sha256(f"{seed}/{key}/{view}".encode()).digest()
    return int.from_bytes(hashed[:8]) >> 1


def label_statistics(labels: U8) -> LabelStatistics:
    """Statistics of one clip's labels, uint8 (V, T, H, W)."""
    return sum((_view_statistics(view) for view in labels), LabelStatistics())


def _view_statistics(view: U8) -> LabelStatistics:
    """Statistics of one label set, uint8 (T, H, W)."""
    counts = np.zeros(MAX_LABELS, dtype=np.int64)
    changed = int(count_labels(view, counts))  # fills ``counts`` in the same pass
    compared = view[1:].size
    ranked = np.sort(counts)[::-1]

    # Histogram over label sets of the number of labels in use; for this one set, a single 1.
    by_used = np.zeros(MAX_LABELS, dtype=int)
    by_used[np.count_nonzero(ranked) - 1] = 1
    return LabelStatistics(
        by_rank=tuple(ranked.tolist()),
        by_used=tuple(by_used.tolist()),
        # In integers, so that sums over clips stay exact.
        dominated=int(10 * ranked[0] > 9 * view.size),
        still=int(100 * changed < compared),
        compared=compared,
        changed=changed,
    )
