"""Shot cut detection on the sampled frames, in the same pass that decodes them.

The *change* between two consecutive samples is the mean difference of small Lab pictures over 20
levels, plus the share of a Lab histogram that moved over 0.5. A sample starts a new shot if its
change exceeds the median of the last four by the threshold; a shaking camera raises the median too.
Choice of constants and measured accuracy: docs/decisions/0007.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

import cv2
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]

DIFFERENCE_UNIT = 20.0  # mean difference of Lab levels that adds 1 to the change
HISTOGRAM_UNIT = 0.5  # share of the histogram that adds 1 to the change
MEDIAN_OF = 4  # latest changes of a shot
HISTOGRAM_SIDE = 128  # pixels
THUMB_SIDE = 32  # pixels
BINS = 8  # per Lab channel


class CutDetector:
    """Finds the samples that start a new shot. Feed it every sample of a video, in order.

    Args:
        threshold: by how much a change must exceed the median of the latest; 0: no detection.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._last: _Signature | None = None
        self._changes: deque[float] = deque(maxlen=MEDIAN_OF)

    def starts_shot(self, image: U8) -> bool:
        """Whether this sample, uint8 (H, W, 3) RGB, starts another shot than the one before."""
        if self._threshold == 0:
            return False
        last = self._last
        self._last = _signature(image)
        if last is None:
            return False

        change = float(np.abs(self._last.thumb - last.thumb).mean()) / DIFFERENCE_UNIT
        overlap = np.minimum(self._last.histogram, last.histogram).sum()
        change += float(1 - overlap) / HISTOGRAM_UNIT
        usual = median(self._changes) if self._changes else 0.0
        if change - usual > self._threshold:
            self._changes.clear()
            return True
        self._changes.append(change)
        return False


@dataclass(frozen=True)
class _Signature:
    """What two samples are compared by: a Lab picture, int16 (32, 32, 3), and the Lab histogram of
    a larger one as shares, float32 (8, 8, 8)."""

    thumb: npt.NDArray[np.int16]
    histogram: npt.NDArray[np.float32]


def _signature(image: U8) -> _Signature:
    if min(image.shape[:2]) > HISTOGRAM_SIDE:
        image = cv2.resize(image, (HISTOGRAM_SIDE, HISTOGRAM_SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], None, [BINS] * 3, [0, 256] * 3)
    thumb = cv2.resize(lab, (THUMB_SIDE, THUMB_SIDE), interpolation=cv2.INTER_AREA)
    pixels = lab.shape[0] * lab.shape[1]
    return _Signature(
        # Signed, so that a difference of two does not wrap around.
        thumb=thumb.astype(np.int16),
        histogram=(counts / pixels).astype(np.float32),
    )
