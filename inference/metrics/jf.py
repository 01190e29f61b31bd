"""Region similarity J and contour accuracy F, exactly as the official DAVIS-2017 evaluation
(semi-supervised task) computes them.

Sources: Perazzi et al., "A benchmark dataset and evaluation methodology for video object
segmentation" (CVPR 2016), and the code of davis2017-evaluation: ``db_eval_iou``,
``db_eval_boundary``, ``db_statistics``. Objects are the ids of the first annotation; void (255) in
an annotation is background; the first and the last frame are left out.

Both are computed on bits (``bits.py``) inside the box around the two masks, where the result is the
same as on the full image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from . import bits

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]

VOID = 255
BOUNDARY_TOLERANCE = 0.008  # of the image diagonal
RECALL_THRESHOLD = 0.5
DECAY_BINS = 4


@dataclass(frozen=True, kw_only=True)
class MeasureStatistics:
    """One measure of one object over its frames, as fractions; decay is positive if the quality
    falls."""

    mean: float
    recall: float
    decay: float


@dataclass(frozen=True, kw_only=True)
class ObjectScore:
    """Scores of one object of one sequence.

    Attributes:
        sequence: name of the sequence.
        object_id: id in the annotations.
        j_frames, f_frames: J and F of every scored frame, for DAVIS 1 .. T-2; fractions.
    """

    sequence: str
    object_id: int
    j_frames: tuple[float, ...]
    f_frames: tuple[float, ...]

    @property
    def name(self) -> str:
        """``<sequence>_<id>``, as in the official tables."""
        return f"{self.sequence}_{self.object_id}"

    @property
    def J(self) -> MeasureStatistics:  # noqa: N802
        """Region similarity."""
        return statistics(self.j_frames)

    @property
    def F(self) -> MeasureStatistics:  # noqa: N802
        """Contour accuracy."""
        return statistics(self.f_frames)

    @property
    def JF(self) -> float:  # noqa: N802
        """Mean of J and F over the frames."""
        return (self.J.mean + self.F.mean) / 2


def score_sequence(
    sequence: str, objects: Sequence[int], pairs: Iterable[tuple[U8, U8]]
) -> tuple[ObjectScore, ...]:
    """Score every object of a sequence; one frame is in memory at a time.

    Args:
        sequence: its name.
        objects: ids of the first annotation.
        pairs: annotation and predicted mask of the frames 1 .. T-2, both uint8 (H, W) object ids.

    Raises:
        ValueError: there is no pair, or the sizes of one differ.
    """
    rows = [[frame_scores(truth == i, mask == i) for i in objects] for truth, mask in pairs]
    if not rows:
        raise ValueError(
            f"sequence {sequence} has no frame to score: the first and the last do not count"
        )
    return tuple(
        ObjectScore(
            sequence=sequence,
            object_id=int(object_id),
            j_frames=tuple(row[k][0] for row in rows),
            f_frames=tuple(row[k][1] for row in rows),
        )
        for k, object_id in enumerate(objects)
    )


def frame_scores(truth: Bool, mask: Bool) -> tuple[float, float]:
    """J and F of one object in one frame.

    Args:
        truth, mask: bool (H, W).

    Raises:
        ValueError: they differ in size.
    """
    if truth.shape != mask.shape:
        raise ValueError(f"truth {truth.shape} and mask {mask.shape} differ in size")
    pair = _crop(truth, mask)
    radius = boundary_radius(*truth.shape)
    packed = bits.pack(pair, reach=radius)
    return _region_similarity(packed), _contour_accuracy(packed, pair.shape[-1], radius)


def boundary_radius(height: int, width: int) -> int:
    """Tolerance of F in pixels: 0.008 of the image diagonal, rounded up (8 at 854 x 480)."""
    return math.ceil(BOUNDARY_TOLERANCE * math.hypot(height, width))


def statistics(values: Sequence[float]) -> MeasureStatistics:
    """Mean, recall (share above 0.5) and decay (mean of the first quarter minus that of the last;
    adjacent bins share a frame)."""
    per_frame: Float = np.asarray(values, dtype=np.float64)
    # The official code stores the bin edges as uint8, which wraps beyond 256 frames; no DAVIS
    # sequence is that long.
    edges = (np.round(np.linspace(1, len(per_frame), DECAY_BINS + 1) + 1e-10) - 1).astype(int)
    first = per_frame[edges[0] : edges[1] + 1]
    last = per_frame[edges[-2] : edges[-1] + 1]
    return MeasureStatistics(
        mean=float(per_frame.mean()),
        recall=float((per_frame > RECALL_THRESHOLD).mean()),
        decay=float(first.mean() - last.mean()),
    )


def mean_over_objects(
    objects: Sequence[ObjectScore], measure: str, statistic: str = "mean"
) -> float:
    """Mean over objects of ``"J"`` or ``"F"``; ``statistic`` is mean, recall or decay."""
    return float(np.mean([getattr(getattr(score, measure), statistic) for score in objects]))


def _region_similarity(pair: bits.U64) -> float:
    """J: intersection over union of truth and mask; 1 where both are empty."""
    union = bits.count(pair[0] | pair[1])
    return bits.count(pair[0] & pair[1]) / union if union else 1.0


def _contour_accuracy(pair: bits.U64, width: int, radius: int) -> float:
    """F: harmonic mean of precision and recall of the boundary of the mask, within ``radius``
    pixels of that of the truth."""
    boundaries = bits.boundary(pair, width)
    n_truth = bits.count(boundaries[0])
    n_mask = bits.count(boundaries[1])
    if not n_truth or not n_mask:
        return 1.0 if n_truth == n_mask else 0.0

    near = bits.dilate(boundaries, radius)
    precision = bits.count(boundaries[1] & near[0]) / n_mask
    recall = bits.count(boundaries[0] & near[1]) / n_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _crop(truth: Bool, mask: Bool) -> Bool:
    """Truth and mask inside their common box, bool (2, h, w)."""
    x, y, width, height = cv2.boundingRect((truth | mask).view(np.uint8))
    # One pixel wider on each side, since a boundary can be one pixel outside of its mask.
    rows = slice(max(y - 1, 0), y + height + 1)
    columns = slice(max(x - 1, 0), x + width + 1)
    return np.stack([truth[rows, columns], mask[rows, columns]])
