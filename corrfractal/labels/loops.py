"""Compiled inner loops of the pipeline: as a chain of array operations they would be bound by
memory bandwidth.

numba compiles each at its first call and caches the machine code beside this file (or in
NUMBA_CACHE_DIR), so that only the first worker of a machine waits. tests/reference holds a slow
naive form of each.

Shapes: N pixels, D channels, K labels, T frames, H x W map.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from .color import LINEAR, WHITE, XYZ_OF_RGB

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
I16 = npt.NDArray[np.int16]

XYZ = (np.array(XYZ_OF_RGB) / np.array(WHITE)[:, None]).astype(np.float32)

BLOCK = 1024  # pixels whose channels and scores fit into the CPU's cache


@njit(cache=True, nogil=True, fastmath={"contract"})
def nearest(
    channels: F32, weights: F32, offsets: F32, labels: U8
) -> None:  # pragma: no cover (compiled)
    """labels[i] = the first k with the least ``offsets[k] + weights[k] . channels[:, i]``.

    Two scores and four channels at a time: with fewer, the loop waits for memory; with more, the
    compiler does not vectorise it.

    Args:
        channels: float32 (D, N), D a multiple of 4.
        weights: float32 (K, D), K even.
        offsets: float32 (K,).
        labels: uint8 (N,), written.
    """
    least = np.empty(BLOCK, np.float32)
    which = np.empty(BLOCK, np.int32)
    first = np.empty(BLOCK, np.float32)
    second = np.empty(BLOCK, np.float32)
    for start in range(0, channels.shape[1], BLOCK):
        n = min(BLOCK, channels.shape[1] - start)
        least[:n] = np.inf
        for k in range(0, weights.shape[0], 2):
            v = weights[k]
            w = weights[k + 1]
            first[:n] = offsets[k]
            second[:n] = offsets[k + 1]
            for d in range(0, weights.shape[1], 4):
                v0, v1, v2, v3 = v[d], v[d + 1], v[d + 2], v[d + 3]
                w0, w1, w2, w3 = w[d], w[d + 1], w[d + 2], w[d + 3]
                x0 = channels[d, start : start + n]
                x1 = channels[d + 1, start : start + n]
                x2 = channels[d + 2, start : start + n]
                x3 = channels[d + 3, start : start + n]
                for i in range(n):
                    first[i] += v0 * x0[i] + v1 * x1[i] + v2 * x2[i] + v3 * x3[i]
                    second[i] += w0 * x0[i] + w1 * x1[i] + w2 * x2[i] + w3 * x3[i]
            label = np.int32(k)
            next_label = np.int32(k + 1)
            # Ternaries, no branches: the compiler turns them into vector selections.
            for i in range(n):
                nearer = first[i] < least[i]
                score = first[i] if nearer else least[i]
                winner = label if nearer else which[i]
                nearer = second[i] < score
                least[i] = second[i] if nearer else score
                which[i] = next_label if nearer else winner
        for i in range(n):
            labels[start + i] = which[i]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def lab_ab(pixels: U8, out: F32) -> None:  # pragma: no cover (compiled)
    """a and b of CIE Lab, exact to 0.001. OpenCV interpolates in tables: it is off by up to 0.5 and
    takes three times as long.

    The cube root is two steps of Newton's method from an estimate that divides the bits by 3: the
    bits of a float, read as an integer, are about its logarithm.

    Args:
        pixels: uint8 (N, 3) RGB.
        out: float32 (2, N), written.
    """
    rgb = np.empty((3, BLOCK), np.float32)
    xyz = np.empty((3, BLOCK), np.float32)
    root = np.empty((3, BLOCK), np.float32)
    bits = xyz.view(np.int32)
    root_bits = root.view(np.int32)
    third = np.float32(1 / 3)
    for start in range(0, len(pixels), BLOCK):
        n = min(BLOCK, len(pixels) - start)
        for i in range(n):
            pixel = pixels[start + i]
            rgb[0, i] = LINEAR[pixel[0]]
            rgb[1, i] = LINEAR[pixel[1]]
            rgb[2, i] = LINEAR[pixel[2]]
        for c in range(3):
            p, q, r = XYZ[c, 0], XYZ[c, 1], XYZ[c, 2]
            for i in range(n):
                xyz[c, i] = p * rgb[0, i] + q * rgb[1, i] + r * rgb[2, i]
            for i in range(n):
                root_bits[c, i] = np.int32(np.float32(bits[c, i]) * third) + np.int32(709921077)
            for i in range(n):
                v = xyz[c, i]
                f = root[c, i]
                f = (f + f + v / (f * f)) * third
                f = (f + f + v / (f * f)) * third
                root[c, i] = (
                    f if v > np.float32(0.008856) else np.float32(7.787) * v + np.float32(16 / 116)
                )
        for i in range(n):
            out[0, start + i] = np.float32(500) * (root[0, i] - root[1, i])
            out[1, start + i] = np.float32(200) * (root[1, i] - root[2, i])


@njit(cache=True, nogil=True, fastmath=True)
def moments(channels: F32, out: npt.NDArray[np.float64]) -> None:  # pragma: no cover (compiled)
    """Mean and standard deviation of each channel, (D, N) -> (D, 2)."""
    N = channels.shape[1]
    for d in range(len(channels)):
        # Sums of differences to the first value: the deviation of a constant is exactly 0.
        origin = channels[d, 0]
        total = 0.0
        squares = 0.0
        for start in range(0, N, BLOCK):
            part = channels[d, start : start + BLOCK]
            s = q = np.float32(0)
            for i in range(len(part)):
                s += part[i] - origin
                q += (part[i] - origin) * (part[i] - origin)
            total += float(s)
            squares += float(q)
        out[d, 0] = origin + total / N
        out[d, 1] = np.sqrt(max(squares / N - (total / N) ** 2, 0.0))


@njit(cache=True, nogil=True)
def count_labels(labels: U8, counts: npt.NDArray[np.int64]) -> int:  # pragma: no cover (compiled)
    """Count pixels by label into ``counts``; return how many have another label than the same pixel
    of the frame before.

    Args:
        labels: uint8 (T, H, W).
        counts: int64 (K,).
    """
    changed = 0
    for t in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                counts[labels[t, y, x]] += 1
            if t:
                before = labels[t - 1, y]
                now = labels[t, y]
                for x in range(labels.shape[2]):
                    changed += now[x] != before[x]
    return changed


@njit(cache=True, nogil=True)
def filtered_rows(labels: U8, rows: U8) -> None:  # pragma: no cover (compiled)
    """Rows of a PNG of 4 bits a pixel, each less the one above it (filter 2, *up*).

    Args:
        labels: uint8 (H, W) of 0 .. 15.
        rows: uint8 (H, 1 + ceil(W / 2)), written: the number of the filter, then two pixels a byte.
    """
    H, W = labels.shape
    above = np.zeros(rows.shape[1] - 1, np.uint8)
    packed = np.zeros(rows.shape[1] - 1, np.uint8)
    for y in range(H):
        line = labels[y]
        out = rows[y, 1:]
        for x in range(W // 2):
            packed[x] = line[2 * x] << 4 | line[2 * x + 1]
        if W % 2:
            packed[W // 2] = line[W - 1] << 4
        for x in range(len(packed)):
            out[x] = packed[x] - above[x]
        rows[y, 0] = 2
        above, packed = packed, above


@njit(cache=True, nogil=True)
def signed_window_sum(
    plane: U8, rows: I16, columns: I16, out: F32
) -> None:  # pragma: no cover (compiled)
    """out[y, x] = sum over i, j of rows[i] * columns[j] * plane[y + i, x + j], in integers: exact.

    Args:
        plane: uint8 (H + n - 1, W + n - 1).
        rows, columns: int16 (n,) of +1 and -1.
        out: (H, W) of any type that holds the sums, written.
    """
    H, W = out.shape
    n = len(rows)
    line = np.empty(plane.shape[1], np.int16)
    total = np.empty(W, np.int16)
    for y in range(H):
        line[:] = 0
        for i in range(n):
            sign = rows[i]
            row = plane[y + i]
            for x in range(len(line)):
                line[x] += sign * np.int16(row[x])
        total[:] = 0
        for j in range(n):
            sign = columns[j]
            shifted = line[j : j + W]
            for x in range(W):
                total[x] += sign * shifted[x]
        for x in range(W):
            out[y, x] = total[x]


@njit(cache=True, nogil=True, fastmath={"contract"})
def weighted_windows(
    image: U8,
    top: npt.NDArray[np.int64],
    down: F32,
    left: npt.NDArray[np.int64],
    across: F32,
    out: U8,
) -> None:  # pragma: no cover (compiled)
    """Each output pixel is a weighted mean of a window of the image: ``down[y]`` by ``across[x]``.

    Args:
        image: uint8 (H, W, 3).
        top, left: int64 (h,), (w,), where the windows begin.
        down, across: float32 (h, taps), (w, taps); each row sums to 1.
        out: uint8 (h, w, 3), written, rounded to nearest.
    """
    width = image.shape[1] * 3
    line = np.empty(width, np.float32)
    for y in range(out.shape[0]):
        line[:] = 0
        for i in range(down.shape[1]):
            weight = down[y, i]
            row = image[top[y] + i].reshape(width)
            for x in range(width):
                line[x] += weight * np.float32(row[x])
        for x in range(out.shape[1]):
            r = g = b = np.float32(0.5)
            at = 3 * left[x]
            for j in range(across.shape[1]):
                weight = across[x, j]
                r += weight * line[at]
                g += weight * line[at + 1]
                b += weight * line[at + 2]
                at += 3
            out[y, x, 0] = np.uint8(r)
            out[y, x, 1] = np.uint8(g)
            out[y, x, 2] = np.uint8(b)
