"""Binary pictures as bits, 64 pixels to a word: what J and F need costs a sixth of the same on
bytes.

A picture is uint64 (..., H, words); pixel x is bit x mod 64 of word x // 64, and bits beyond the
width are 0. Spare words at the end of every row take what moves out of it, so that all rows move as
one long number.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
U64 = npt.NDArray[np.uint64]

ONE, LAST = np.uint64(1), np.uint64(63)


def pack(mask: Bool, reach: int = 1) -> U64:
    """bool (..., H, W) -> uint64 (..., H, words), with room to ``dilate`` by ``reach`` pixels."""
    width = mask.shape[-1]
    words = math.ceil(width / 64) + 1 + reach // 64
    packed = np.zeros((*mask.shape[:-1], 8 * words), dtype=np.uint8)
    packed[..., : math.ceil(width / 8)] = np.packbits(mask, axis=-1, bitorder="little")
    return packed.view("<u8")


def unpack(bits: U64, width: int) -> Bool:
    """The bool (..., H, width) that was packed."""
    packed = np.ascontiguousarray(bits).astype("<u8").view(np.uint8)
    return np.unpackbits(packed, axis=-1, count=width, bitorder="little").view(np.bool_)


def count(bits: U64) -> int:
    """Pixels that are set."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def boundary(bits: U64, width: int) -> U64:
    """Pixels that differ from their right, lower or diagonal neighbour.

    The last row looks right only, the last column down only, and the corner is never boundary.
    """
    right = _from_right(bits)
    right[..., -1] = 0
    word, bit = divmod(width - 1, 64)
    # The last column is its own right neighbour
    right[..., word] |= bits[..., word] & (ONE << np.uint64(bit))
    found = bits ^ right
    found[..., :-1, :] |= (bits[..., :-1, :] ^ bits[..., 1:, :]) | (
        bits[..., :-1, :] ^ right[..., 1:, :]
    )
    return found


def dilate(bits: U64, radius: int) -> U64:
    """Pixels no further than ``radius`` from a set one. Bits beyond the width may be set too.

    Row by row of the disk, from its rim, where it is narrow, to its middle.
    """
    near, run = bits.copy(), bits.copy()
    left, right, reached = bits, bits, 0
    for dy, half in _rows_of_disk(radius):
        for _ in range(half - reached):
            left, right = _from_right(left), _from_left(right)
            run |= left
            run |= right
        reached = half
        if dy == 0:
            near |= run
        elif dy < bits.shape[-2]:
            near[..., dy:, :] |= run[..., :-dy, :]
            near[..., :-dy, :] |= run[..., dy:, :]
    return near


def _from_right(bits: U64) -> U64:
    """Every pixel takes its right neighbour's value."""
    flat = bits.reshape(-1)
    moved = flat >> ONE
    moved[:-1] |= flat[1:] << LAST
    return moved.reshape(bits.shape)


def _from_left(bits: U64) -> U64:
    """Every pixel takes its left neighbour's value."""
    flat = bits.reshape(-1)
    moved = flat << ONE
    moved[1:] |= flat[:-1] >> LAST
    return moved.reshape(bits.shape)


@cache
def _rows_of_disk(radius: int) -> tuple[tuple[int, int], ...]:
    """(distance of a row from the middle, half its width), from the rim to the middle."""
    return tuple((dy, math.isqrt(radius**2 - dy**2)) for dy in range(radius, -1, -1))
