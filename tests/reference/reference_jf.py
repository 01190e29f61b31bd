"""J, F and their statistics in plain loops over the whole image: slow, and readable beside the
official definition."""

from __future__ import annotations

import math

import numpy as np


def naive_j(truth: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union, pixel by pixel."""
    intersection = union = 0
    for t, m in zip(truth.ravel(), mask.ravel(), strict=True):
        intersection += bool(t) and bool(m)
        union += bool(t) or bool(m)
    return intersection / union if union else 1.0


def naive_boundary(mask: np.ndarray) -> set[tuple[int, int]]:
    """Boundary pixels (y, x). The neighbours that the image lacks are looked at as the official
    code does."""
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            last_row, last_column = y == height - 1, x == width - 1
            if last_row and last_column:
                neighbours = []
            elif last_row:
                neighbours = [(y, x + 1)]
            elif last_column:
                neighbours = [(y + 1, x)]
            else:
                neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(mask[n] != mask[y, x] for n in neighbours):
                found.add((y, x))
    return found


def naive_f(truth: np.ndarray, mask: np.ndarray) -> float:
    """F by measuring the distance of every boundary pixel to every boundary pixel of the other
    mask."""
    radius = math.ceil(0.008 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    b_truth, b_mask = naive_boundary(truth), naive_boundary(mask)
    if not b_truth and not b_mask:
        return 1.0
    if not b_truth or not b_mask:
        return 0.0
    precision = sum(_near(p, b_truth, radius) for p in b_mask) / len(b_mask)
    recall = sum(_near(p, b_mask, radius) for p in b_truth) / len(b_truth)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def naive_statistics(values: list[float]) -> tuple[float, float, float]:
    """Mean, recall and decay, as ``db_statistics`` of the official code writes them."""
    n = len(values)
    ids = np.round(np.linspace(1, n, 5) + 1e-10) - 1
    bins = [values[int(ids[i]) : int(ids[i + 1]) + 1] for i in range(4)]
    mean = sum(values) / n
    recall = sum(v > 0.5 for v in values) / n
    return mean, recall, sum(bins[0]) / len(bins[0]) - sum(bins[3]) / len(bins[3])


def _near(point: tuple[int, int], others: set[tuple[int, int]], radius: int) -> bool:
    return any((point[0] - y) ** 2 + (point[1] - x) ** 2 <= radius**2 for y, x in others)
