"""Where one shot ends and the next begins, told from the sampled frames alone, in the one pass over
a video.

The *change* between two consecutive samples is the mean difference of small Lab pictures over 20
levels plus the share of a Lab histogram that moved over 0.5. A cut is a change that exceeds the
median of the last four by the threshold: a shaking camera raises the median with it. Thresholds and
figures: docs/decisions/0007.
"""

from __future__ import annotations

from collections import deque
from statistics import median

import cv2
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]

# Mean difference of Lab levels, share of the histogram, that count as one unit
DIFFERENCE, MOVED = 20.0, 0.5
REMEMBERED = 4  # changes of the shot at hand that the next one is compared with
HISTOGRAM_SIDE, THUMB_SIDE, BINS = 128, 32, 8


class CutDetector:
    """Fed with the samples of a video in order, tells which of them begins a new shot.

    Args:
        threshold: by how much a change must exceed the usual one; 0: nothing is a cut.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._last: tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]] | None = None
        self._changes: deque[float] = deque(maxlen=REMEMBERED)

    def starts_shot(self, image: U8) -> bool:
        """Whether this sample, uint8 (H, W, 3) RGB, does not belong to the shot of the one before."""
        if self._threshold == 0:
            return False
        look, before = _look(image), self._last
        self._last = look
        if before is None:
            return False
        change = float(np.abs(look[0] - before[0]).mean()) / DIFFERENCE
        change += float(1 - np.minimum(look[1], before[1]).sum()) / MOVED
        if change - (median(self._changes) if self._changes else 0.0) > self._threshold:
            self._changes.clear()
            return True
        self._changes.append(change)
        return False


def _look(image: U8) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """Small Lab picture, and the histogram of a larger one as shares."""
    if min(image.shape[:2]) > HISTOGRAM_SIDE:
        image = cv2.resize(image, (HISTOGRAM_SIDE, HISTOGRAM_SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], None, [BINS] * 3, [0, 256] * 3)
    thumb = cv2.resize(lab, (THUMB_SIDE, THUMB_SIDE), interpolation=cv2.INTER_AREA)
    return thumb.astype(np.int16), (counts / lab[..., 0].size).astype(np.float32)
