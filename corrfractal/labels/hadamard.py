"""Walsh-Hadamard responses (III-A, Fig. 2; the fast transform: Fino and Algazi, 1976, the paper's
[22]).

The basis of size ``n`` (4 or 8) has n x n patterns of +1 and -1, the outer products of the n sequency-ordered Walsh
functions (sequency = number of sign changes). Pattern 0 is the mean (DC). With c = 0, 1, 2 for R, G, B:

    pattern id = c * (n * n - 1) + (row_sequency * n + column_sequency - 1)

so a basis of size 4 gives 45 responses; three more ids after them are the DC of R, G, B, which only a switch ever
draws. The window of an even size has no centre pixel: at pixel (y, x) it covers rows y - n/2 + 1 ... y + n/2, so
every response lies half a pixel right and below. The shift is the same for all patterns and all frames, therefore
labels made from them still correspond in time; the window never leans the other way.
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
        selection: pattern ids, each in 0 .. pattern_count(basis) - 1, or up to three more for DC.
        basis: 4 or 8.

    Returns:
        int16 (T, len(selection), H, W); borders reflect. |response| <= 255 * basis^2 / 2, DC twice that.

    Raises:
        ValueError: wrong shape or dtype, or an id out of range.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    patterns = basis * basis - 1
    bad = [p for p in selection if not 0 <= p < 3 * patterns + 3]
    if bad:
        raise ValueError(f"pattern ids must lie in 0..{3 * patterns + 2}, got {bad}")

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
    """Responses of one frame, uint8 (H, W, 3), written to ``out``: for each pattern (H, W), int16
    or float32."""
    # late: what only propagates masks does without the compiler
    from .loops import signed_window_sum

    functions, planes = walsh_basis(basis), _reflect(frame, basis // 2 - 1, basis // 2)
    for pattern, response in zip(selection, out, strict=True):
        channel, row, column = place(pattern, basis)
        signed_window_sum(planes[channel], functions[row], functions[column], response)


def sequency(pattern: int, basis: int = 4) -> int:
    """The larger of a pattern's row and column sequency; 0 for DC."""
    return max(place(pattern, basis)[1:])


def place(pattern: int, basis: int) -> tuple[int, int, int]:
    """Colour channel, row sequency and column sequency of a pattern id."""
    channel, rest = divmod(pattern, basis * basis - 1)
    if channel == 3:  # the ids after the last pattern
        return rest, 0, 0
    return channel, *divmod(rest + 1, basis)


def _reflect(frame: npt.NDArray[np.uint8], before: int, after: int) -> list[npt.NDArray[np.uint8]]:
    """(H, W, 3) -> three planes of (H + before + after, W + before + after); one-pixel sides repeat."""
    mode = cv2.BORDER_REFLECT_101 if min(frame.shape[:2]) > 1 else cv2.BORDER_REPLICATE
    return [
        cv2.copyMakeBorder(plane, before, after, before, after, mode) for plane in cv2.split(frame)
    ]
