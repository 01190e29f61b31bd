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
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    on, beside = (
        _edges(grey[:, _lines(grey.shape[1], first)].T) + _edges(grey[_lines(grey.shape[0], first)])
        for first in (GRID, GRID + HALF)
    )
    return (on - beside) / float(np.sqrt(on + beside + 4))


def _lines(size: int, first: int) -> npt.NDArray[np.intp]:
    """The two lines before and the two after every grid line from ``first`` on, in that order."""
    return (np.arange(first, size - 1, GRID)[:, None] + np.arange(-2, 2)).ravel()


def _edges(lines: npt.NDArray[np.uint8]) -> int:
    """Number of runs of pixels at which the picture steps across a grid line, at most ``MOST`` of a line.

    ``lines``: uint8 (4 * grid lines, length).
    """
    runs = lines.shape[1] // RUN
    a, b, c, d = np.moveaxis(lines[:, : runs * RUN].reshape(-1, 4, runs * RUN).astype(np.int16), 1, 0)
    excess = np.abs(c - b) - np.maximum(np.abs(b - a), np.abs(d - c))
    steps = np.count_nonzero(excess.reshape(-1, runs, RUN).sum(axis=2) > EDGE * RUN, axis=1)
    return int(np.minimum(steps, MOST).sum())
