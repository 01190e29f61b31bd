"""Percentage of correct key points, the measure of label propagation on JHMDB.

A joint is correct at PCK@a if its distance is at most a times the size of the person, which is 0.6
of the diagonal of the box around the true joints of the frame. The share of correct positions is
taken per joint over all frames of all videos without the given first ones, then averaged over the
joints.

There are two forms. The ``loose`` form excludes undetected joints from the counts and from the box,
as the scripts of TimeCycle, UVC and CRW do. In the ``strict`` form they are wrong, and the box is
that of all joints.
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
    """Distances of predicted joints from the true ones in sizes of the person, float64 (T, joints).

    Attributes:
        loose: NaN where a joint is undetected.
        strict: infinite where a joint is undetected.
    """

    loose: Float
    strict: Float


def distances(truth: Float, predicted: Float) -> Distances:
    """Distances in sizes of the person.

    Args:
        truth: float64 (T, joints, 2) x, y in pixels, without the given first frame.
        predicted: the same; NaN where a joint is undetected.

    Returns:
        Both forms. If the box of a frame has no extent, the distance is 0 at the exact position and
        infinite elsewhere.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} differ in shape")
    # NaN in a prediction makes its distance NaN.
    off = np.linalg.norm(truth - predicted, axis=-1)
    detected: npt.NDArray[np.bool_] = np.isfinite(off)
    everywhere = np.ones_like(detected)
    return Distances(
        loose=np.where(detected, _over(off, person_size(truth, detected)), np.nan),
        strict=np.where(detected, _over(off, person_size(truth, everywhere)), np.inf),
    )


def person_size(truth: Float, counted: npt.NDArray[np.bool_]) -> Float:
    """0.6 of the diagonal of the box around the counted joints, float64 (T,); 0 without any.

    Args:
        truth: float64 (T, joints, 2).
        counted: bool (T, joints).
    """
    low = np.where(counted[..., None], truth, np.inf).min(axis=1)
    high = np.where(counted[..., None], truth, -np.inf).max(axis=1)
    extent = np.where(np.isfinite(low), high - low, 0)
    return np.asarray(BOX_SHARE * np.hypot(extent[:, 0], extent[:, 1]))


def pck(videos: Sequence[Float], threshold: float) -> tuple[float, Float]:
    """PCK@threshold over all videos.

    Args:
        videos: distances of each video, float64 (T, joints); NaN is excluded, infinity is wrong.
        threshold: in sizes of the person.

    Returns:
        The mean over joints, and PCK of each joint; fractions 0..1. A joint excluded everywhere is
        NaN and not part of the mean.
    """
    together = np.concatenate(list(videos))
    counts = (~np.isnan(together)).sum(axis=0)
    correct = (together <= threshold).sum(axis=0)
    per_joint = np.divide(correct, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    mean = float(np.nanmean(per_joint)) if counts.any() else float("nan")
    return mean, per_joint


def _over(off: Float, size: Float) -> Float:
    """Distance over size; for size 0, 0 at the exact position and infinite elsewhere."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = off / size[:, None]
    return np.where(size[:, None] > 0, ratio, np.where(off == 0, 0.0, np.inf))
