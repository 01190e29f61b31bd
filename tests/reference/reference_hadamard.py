"""Slow Walsh-Hadamard responses: every pattern as a dense two-dimensional window, every pixel by
itself."""

from __future__ import annotations

import numpy as np


def walsh(sequency: int, n: int) -> list[int]:
    """Walsh function by its formula: (-1)^popcount(reversed Gray code of the sequency & x)."""
    bits = n.bit_length() - 1
    gray = sequency ^ (sequency >> 1)
    row = int(format(gray, f"0{bits}b")[::-1], 2)
    return [(-1) ** (row & x).bit_count() for x in range(n)]


def reflected(index: int, size: int) -> int:
    """An index outside 0 .. size-1 thrown back at the border pixels, which are not repeated."""
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
        if size == 1:
            return 0
    return index


def slow_responses(frames: np.ndarray, pattern: int, n: int) -> np.ndarray:
    """uint8 (T, H, W, 3) -> int64 (T, H, W), one pattern."""
    T, H, W, _ = frames.shape
    channel, rest = divmod(pattern, n * n - 1)
    row, column = divmod(rest + 1, n)
    kernel = np.outer(walsh(row, n), walsh(column, n))
    result = np.zeros((T, H, W), dtype=np.int64)
    for y in range(H):
        for x in range(W):
            ys = [reflected(y + dy, H) for dy in range(1 - n // 2, n // 2 + 1)]
            xs = [reflected(x + dx, W) for dx in range(1 - n // 2, n // 2 + 1)]
            window = frames[:, ys][:, :, xs, channel].astype(np.int64)
            result[:, y, x] = (window * kernel).sum(axis=(1, 2))
    return result
