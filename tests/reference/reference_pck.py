"""PCK in plain loops, readable beside the definition: joint by joint, frame by frame."""

from __future__ import annotations

import math

import numpy as np


def naive_pck(
    truths: list[np.ndarray], predictions: list[np.ndarray], threshold: float, strict: bool
) -> float:
    """Mean over joints of the share of correct ones; NaN in a prediction marks a joint that was not
    detected.

    Args:
        truths, predictions: per video (frames, joints, 2), the first frame left out.
    """
    shares = []
    for joint in range(truths[0].shape[1]):
        correct = counted = 0
        for truth, predicted in zip(truths, predictions, strict=True):
            for t in range(len(truth)):
                if math.isnan(predicted[t, joint, 0]):
                    counted += strict
                    continue
                counted += 1
                correct += _is_correct(truth[t], predicted[t], joint, threshold, strict)
        if counted:
            shares.append(correct / counted)
    return sum(shares) / len(shares) if shares else math.nan


def _is_correct(
    truth: np.ndarray, predicted: np.ndarray, joint: int, threshold: float, strict: bool
) -> bool:
    box = [truth[j] for j in range(len(truth)) if strict or not math.isnan(predicted[j, 0])]
    xs, ys = [p[0] for p in box], [p[1] for p in box]
    size = 0.6 * math.hypot(max(xs) - min(xs), max(ys) - min(ys))
    off = math.hypot(truth[joint, 0] - predicted[joint, 0], truth[joint, 1] - predicted[joint, 1])
    return off / size <= threshold if size > 0 else off == 0
