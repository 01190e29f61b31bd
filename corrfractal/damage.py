"""Damage that a decoder hides: block edges that appear all at once where a decoded picture has none by nature.

Flipped bits leave pictures of squares, on the 16-pixel grid of the codecs. Edges of real things fall on that grid no
more often than 8 pixels beside it, so the surplus of edges on the grid over edges beside it, in units of its deviation,
is near zero for any content, and jumps where a stream is damaged. Measured in docs/decisions/0008.
"""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
import numpy.typing as npt

GRID, HALF = 16, 8
EDGE = 24  # grey levels by which a step across the grid line exceeds those beside it
RUN = 8  # pixels along the line over which a step is averaged
MOST = 3  # runs that count of a grid line: the long edge of a split screen is one thing
REMEMBERED = 8  # pictures with whose surplus the next one is compared
SURGE = 4.0


class BlockWatch:
    """Fed with the pictures of a video in order, tells the first one with a surge of block edges."""

    def __init__(self) -> None:
        self._surplus: deque[float] = deque(maxlen=REMEMBERED)

    def is_damaged(self, image: npt.NDArray[np.uint8]) -> bool:
        """Whether this picture, uint8 (H, W, 3) RGB at the size it was coded in, shows damage."""
        surplus = block_surplus(image)
        surge = surplus - float(np.median(self._surplus)) if self._surplus else 0.0
        self._surplus.append(surplus)
        return surge > SURGE


def block_surplus(image: npt.NDArray[np.uint8]) -> float:
    """(edges on the grid - edges beside it) / sqrt(their sum + 4)."""
    from .loops import steps_across  # late: what only propagates masks does without the compiler

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    on, beside = (
        sum(steps_across(plane, first, GRID, RUN, EDGE, MOST) for plane in (grey, grey.T))
        for first in (GRID, GRID + HALF)
    )
    return (on - beside) / float(np.sqrt(on + beside + 4))
