"""Percentage of correct key points, as the field evaluates label propagation on JHMDB.

A joint is correct at PCK@a if it lies within a times the size of the person, which is 0.6 of the
diagonal of the box around the true joints of that frame. Correct shares are taken per joint over
all frames of all videos (the first, which is given, is left out), then averaged over the joints.

Two forms: the ``loose`` one leaves joints that were not detected out of the counts and out of the
box, as the scripts of the paper's siblings do (TimeCycle, UVC, CRW); in the ``strict`` one they are
wrong, and the box is that of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

BOX_SHARE = 0.6


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Distances of predicted joints from the true ones, in sizes of the person, float (T, joints).

    Attributes:
        loose: NaN where a joint was not detected.
        strict: infinite where a joint was not detected.
    """

    loose: Float
    strict: Float


def distances(truth: Float, predicted: Float) -> Distances:
    """Distances in sizes of the person, frame by frame.

    Args:
        truth: (T, joints, 2) x, y in pixels, without the given first frame.
        predicted: the same; NaN where a joint was not detected.

    Returns:
        float (T, joints). In a frame whose box has no extent a joint is right only in its very
        place.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} differ in shape")
    off = np.linalg.norm(truth - predicted, axis=-1)
    detected: npt.NDArray[np.bool_] = np.isfinite(off)
    everywhere = np.ones_like(detected)
    return Distances(
        loose=np.where(detected, _over(off, person_size(truth, detected)), np.nan),
        strict=np.where(detected, _over(off, person_size(truth, everywhere)), np.inf),
    )


def person_size(truth: Float, counted: npt.NDArray[np.bool_]) -> Float:
    """0.6 of the diagonal of the box around the counted joints, (T,); 0 where none is.

    Args:
        truth: (T, joints, 2).
        counted: (T, joints).
    """
    low = np.where(counted[..., None], truth, np.inf).min(axis=1)
    high = np.where(counted[..., None], truth, -np.inf).max(axis=1)
    extent = np.where(np.isfinite(low), high - low, 0)
    return np.asarray(BOX_SHARE * np.hypot(extent[:, 0], extent[:, 1]))


def pck(videos: Sequence[Float], threshold: float) -> tuple[float, Float]:
    """PCK@threshold of all videos: the mean over joints, and per joint; fractions 0..1.

    Args:
        videos: distances of each video, (T, joints); NaN does not count, infinity is wrong.

    Returns:
        NaN for a joint that counts nowhere; it is left out of the mean.
    """
    together = np.concatenate(list(videos))
    counts = (~np.isnan(together)).sum(axis=0)
    correct = (together <= threshold).sum(axis=0)
    per_joint = np.divide(correct, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return (float(np.nanmean(per_joint)) if counts.any() else float("nan")), per_joint


def _over(off: Float, size: Float) -> Float:
    """Distance over size; with no size, 0 in place and infinite elsewhere."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = off / size[:, None]
    return np.where(size[:, None] > 0, ratio, np.where(off == 0, 0.0, np.inf))
