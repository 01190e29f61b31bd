"""Slow assignment: standardise every pixel, measure its distance to every centroid, in double
precision."""

from __future__ import annotations

import numpy as np


def slow_distances(
    channels: np.ndarray, mean: np.ndarray, scale: np.ndarray, centroids: np.ndarray
) -> np.ndarray:
    """(C, N) channels, (C,) mean and scale, (K, C) centroids -> float64 (N, K) squared distances."""
    points = ((channels.astype(np.float64) - mean[:, None]) * scale[:, None]).T
    return np.stack(
        [((points - centroid) ** 2).sum(axis=1) for centroid in centroids.astype(np.float64)],
        axis=1,
    )
