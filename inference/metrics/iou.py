"""Mean intersection over union from one confusion matrix over a whole data set, as part
segmentation is scored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]


def confusion(truth: U8, mask: U8, classes: int) -> I64:
    """Pixels of every class (row) by what they were taken for (column), int64 (classes, classes).

    Args:
        truth: uint8 (H, W); pixels of ``classes`` and above do not count.
        mask: uint8 (H, W), ids below ``classes``.
    """
    if truth.shape != mask.shape:
        raise ValueError(f"truth {truth.shape} and mask {mask.shape} differ in size")
    counted = truth < classes
    pairs = truth[counted].astype(np.int64) * classes + mask[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def iou(matrix: I64) -> Float:
    """Intersection over union of every class; NaN for a class that occurs neither in the truth nor
    in a mask."""
    correct = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - correct
    return np.divide(correct, union, out=np.full(len(matrix), np.nan), where=union > 0)


def mean_iou(matrix: I64) -> float:
    """Mean over the classes that occur."""
    return float(np.nanmean(iou(matrix)))
