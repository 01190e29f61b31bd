"""Mean intersection over union from one confusion matrix over a data set, the measure of part
segmentation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]


def confusion(truth: U8, mask: U8, classes: int) -> I64:
    """Pixels by true class (row) and predicted class (column), int64 (classes, classes).

    Args:
        truth: uint8 (H, W); pixels of ``classes`` and above are ignored.
        mask: uint8 (H, W), ids below ``classes``.
        classes: their number.

    Raises:
        ValueError: truth and mask differ in size.
    """
    if truth.shape != mask.shape:
        raise ValueError(f"truth {truth.shape} and mask {mask.shape} differ in size")
    counted = truth < classes
    # A pair of classes is one number, so that one count over all pixels gives the matrix.
    pairs = truth[counted].astype(np.int64) * classes + mask[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def iou(matrix: I64) -> Float:
    """Intersection over union of each class, float64 (classes,); NaN for a class in neither truth
    nor masks."""
    correct = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - correct
    return np.divide(correct, union, out=np.full(len(matrix), np.nan), where=union > 0)


def mean_iou(matrix: I64) -> float:
    """Mean over the classes that occur."""
    return float(np.nanmean(iou(matrix)))
