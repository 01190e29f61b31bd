"""Mean IoU in plain loops over pixels."""

from __future__ import annotations

import math

import numpy as np


def naive_mean_iou(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> float:
    """Mean over the classes that occur; pixels whose truth is no class do not count."""
    found = []
    for c in range(classes):
        both = either = 0
        for truth, mask in pairs:
            for t, m in zip(truth.ravel().tolist(), mask.ravel().tolist(), strict=True):
                if t < classes:
                    both += t == c and m == c
                    either += t == c or m == c
        if either:
            found.append(both / either)
    return sum(found) / len(found) if found else math.nan
