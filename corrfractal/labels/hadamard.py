"""Walsh-Hadamard responses (III-A, Fig. 2; fast transform: Fino and Algazi, 1976, the paper's
[22]).

The basis of size ``n`` (4 or 8) has n x n patterns of +1 and -1, the outer products of the n
sequency-ordered Walsh functions (sequency = number of sign changes). Pattern 0 is the mean (DC) and
is never used. With c = 0, 1, 2 for R, G, B:

    pattern id = c * (n * n - 1) + (row_sequency * n + column_sequency - 1)

so a basis of size 4 gives 45 responses. Shapes: T frames, H x W pixels.

A window of even size has no centre pixel: at pixel (y, x) it covers rows y - n/2 + 1 ... y + n/2,
so every response is shifted by half a pixel to the right and down. The shift is the same for all
patterns and all frames, so labels made from them still correspond in time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

I16 = npt.NDArray[np.int16]


@functools.cache
def walsh_basis(n: int = 4) -> I16:
    """Sequency-ordered Walsh functions, int16 (n, n) of +1 and -1, one function a row.

    Raises:
        ValueError: ``n`` is not 4 or 8.
    """
    if n not in (4, 8):
        raise ValueError(f"the Walsh-Hadamard basis has size 4 or 8, got {n}")
    rows = np.ones((1, 1), dtype=np.int16)
    while len(rows) < n:
        rows = np.block([[rows, rows], [rows, -rows]])
    sequency = (np.diff(rows, axis=1) != 0).sum(axis=1)
    return np.ascontiguousarray(rows[np.argsort(sequency)])


def pattern_count(n: int = 4) -> int:
    """Number of pattern ids of a basis: three colour channels, all patterns but DC."""
    return 3 * (n * n - 1)


def hadamard_responses(
    frames: npt.NDArray[np.uint8], selection: Sequence[int], basis: int = 4
) -> I16:
    """Exact responses of the selected patterns at every pixel.

    Args:
        frames: uint8 (T, H, W, 3) RGB.
        selection: pattern ids, each in 0 .. pattern_count(basis) - 1.
        basis: 4 or 8.

    Returns:
        int16 (T, len(selection), H, W); borders reflect. |response| <= 255 * basis^2 / 2.

    Raises:
        ValueError: wrong shape or dtype, or an id out of range.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    last = pattern_count(basis) - 1
    bad = [pattern for pattern in selection if not 0 <= pattern <= last]
    if bad:
        raise ValueError(f"pattern ids must be in 0..{last}, got {bad}")

    responses = np.empty((len(frames), len(selection), *frames.shape[1:3]), dtype=np.int16)
    for frame, out in zip(frames, responses, strict=True):
        write_responses(frame, selection, basis, out)
    return responses


def write_responses(
    frame: npt.NDArray[np.uint8],
    selection: Sequence[int],
    basis: int,
    out: npt.NDArray[Any] | Sequence[Any],
) -> None:
    """Write the responses of one frame, uint8 (H, W, 3), to ``out``: (H, W) for each pattern, int16
    or float32."""
    from .loops import signed_window_sum

    functions = walsh_basis(basis)
    planes = _reflect(frame, basis // 2 - 1, basis // 2)
    for pattern, response in zip(selection, out, strict=True):
        channel, row, column = place(pattern, basis)
        signed_window_sum(planes[channel], functions[row], functions[column], response)


def sequency(pattern: int, basis: int = 4) -> int:
    """The larger of a pattern's row and column sequency."""
    _, row, column = place(pattern, basis)
    return max(row, column)


def place(pattern: int, basis: int) -> tuple[int, int, int]:
    """Colour channel, row sequency and column sequency of a pattern id."""
    channel, rest = divmod(pattern, basis * basis - 1)
    row, column = divmod(rest + 1, basis)  # + 1: no id belongs to DC
    return channel, row, column


def _reflect(frame: npt.NDArray[np.uint8], before: int, after: int) -> list[npt.NDArray[np.uint8]]:
    """(H, W, 3) -> three planes (H + before + after, W + before + after)."""
    # OpenCV cannot reflect a side of one pixel.
    mode = cv2.BORDER_REFLECT_101 if min(frame.shape[:2]) > 1 else cv2.BORDER_REPLICATE
    return [
        cv2.copyMakeBorder(plane, before, after, before, after, mode) for plane in cv2.split(frame)
    ]
