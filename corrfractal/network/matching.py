"""Restricted attention for propagation: ``attention.restricted_attention`` without gradients, for
one video, with three additions that only propagation can use.

- *Shifts*: the window of a tile of queries may be moved in each reference, by a whole number of
  cells (``motion``).
- *Skipped tiles*: where every value within reach equals one constant, such as background alone, so
  does the result, and the tile is not computed. Labels of a video are mostly background. Weights of
  values do not count there: otherwise doubt would spread over the background, by the reach of a
  window in every frame, and no tile could be skipped.
- *Rows*: keys are stored with the channels of a pixel side by side. The keys of a tile are then
  selected by row numbers, which costs a third of cutting them from channel-first maps.

A tile of 8 x 8 queries shares (8+2r)^2 keys in each reference, as in ``kernels.Tiles``; the product
with all of them is masked to each query's own window.

Shapes: N references, C embedding channels, V value channels, h x w map, r window radius,
K = 8 + 2r side of a tile's keys, T tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import MASKED, TILE, far

# Scores of the tiles that are computed at once; more would leave the cache of a CPU.
CHUNK_BYTES = 4 << 20
GPU_CHUNK_BYTES = 512 << 20


def match(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    radius: int,
    scale: float,
    *,
    mask_border: bool = True,
    shifts: Tensor | None = None,
    constant: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Carry ``value`` from the references to the target by similarity within a window.

    Args:
        query: (1, C, h, w) target embedding.
        key: (1, N, C, h, w) embeddings of N references.
        value: (1, N, V, h, w) labels, or labels and embedding.
        radius: window radius, 0 or more.
        scale: factor on the inner product.
        mask_border: exclude keys outside the map; otherwise they count as zeros.
        shifts: int64 (T, N, 2), rows and columns by which the window of each tile is moved in each
            reference; tiles row by row, see ``tile_grid``. Each tile needs one reference whose
            window includes keys of the map. None: no window is moved.
        constant: (V,), the value that most of the map has. None: no tile is skipped.
        weight: (1, N, 1, h, w), factors of the values, after the softmax. Where a tile is skipped
            they count as 1.

    Returns:
        (1, V, h, w), as ``restricted_attention`` gives it, but for rounding.
    """
    _, C, h, w = query.shape
    _, N, V = value.shape[:3]
    rows, columns = tile_grid(h, w)
    if shifts is None:
        # A wider window than the map adds only masked keys.
        radius = min(radius, max(h, w) - 1) if mask_border else radius
        shifts = torch.zeros(1, 1, 2, dtype=torch.int64, device=query.device)
    shifts = shifts.expand(rows * columns, N, 2)

    queries = _split(query[0] * scale, rows, columns)
    outside = MASKED if mask_border else 0.0
    keys = _as_rows(key, outside)
    values = F.pad(value[0].transpose(0, 1).reshape(V, -1), (0, 1))
    if constant is not None and mask_border:
        # Keys outside have no weight: their value must not keep a tile at the border from being
        # skipped. Where they count as zeros, it must.
        values[:, -1] = constant
    windows = _Windows(radius, (h, w), N, shifts)

    result = values.new_empty(rows * columns, V, TILE * TILE)
    if constant is None:
        active = torch.arange(rows * columns, device=query.device)
    else:
        differs = (values != constant[:, None]).any(dim=0)
        active = windows.tiles_that_see(differs)
        result[:] = constant[:, None]
    if weight is not None:
        values = values * F.pad(weight.reshape(1, -1), (0, 1), value=1.0)

    outside_window = far(radius, query.dtype, query.device)
    budget = CHUNK_BYTES if query.device.type == "cpu" else GPU_CHUNK_BYTES
    tile_bytes = TILE * TILE * N * windows.count * query.element_size()
    with _denormals_flushed():
        for tiles in active.split(max(1, budget // tile_bytes)):
            if not len(tiles):
                continue
            numbers = windows.row_numbers(tiles).flatten()
            k = keys.index_select(0, numbers).view(len(tiles), -1, C + 1)
            scores = torch.bmm(queries[tiles], k.transpose(1, 2))
            scores.view(len(tiles), TILE * TILE, N, -1).add_(outside_window)
            weights = torch.softmax(scores, dim=-1)
            # Values first: a product with V columns, usually two, takes nine times as long.
            v = values.index_select(1, numbers).view(V, len(tiles), -1).transpose(0, 1)
            result[tiles] = torch.bmm(v, weights.transpose(1, 2))
    return _join(result, rows, columns)[:, :, :h, :w]


def tile_grid(h: int, w: int) -> tuple[int, int]:
    """Rows and columns of tiles that cover a map."""
    return math.ceil(h / TILE), math.ceil(w / TILE)


class _Windows:
    """Which rows of ``_as_rows`` the keys of each tile are."""

    def __init__(self, radius: int, size: tuple[int, int], N: int, shifts: Tensor) -> None:
        self.size = size
        self.N = N
        rows, columns = tile_grid(*size)
        device = shifts.device
        side = torch.arange(-radius, TILE + radius, device=device)
        self.count = len(side) ** 2
        tops = TILE * torch.arange(rows, device=device).repeat_interleave(columns)
        lefts = TILE * torch.arange(columns, device=device).repeat(rows)
        # (T, N, K): rows and columns of the map
        self.y = (tops[:, None] + shifts[..., 0])[..., None] + side
        self.x = (lefts[:, None] + shifts[..., 1])[..., None] + side

    def row_numbers(self, tiles: Tensor) -> Tensor:
        """int64 (tiles, N, K, K); the last row for keys outside the map."""
        h, w = self.size
        y = self.y[tiles]
        x = self.x[tiles]
        first = h * w * torch.arange(self.N, device=y.device)[:, None]
        numbers = (first + y * w)[..., :, None] + x[..., None, :]
        inside_rows = (y >= 0) & (y < h)
        inside_columns = (x >= 0) & (x < w)
        inside = inside_rows[..., :, None] & inside_columns[..., None, :]
        return torch.where(inside, numbers, self.N * h * w)

    def tiles_that_see(self, marked: Tensor) -> Tensor:
        """Numbers of the tiles with a marked row, bool (N * h * w + 1,), within reach."""
        h, w = self.size
        # Sums over rectangles from one cumulative sum: a tile's window is one in each reference.
        total = torch.zeros(self.N, h + 1, w + 1, dtype=torch.int64, device=marked.device)
        total[:, 1:, 1:] = marked[:-1].view(self.N, h, w).cumsum(1).cumsum(2)
        top = self.y[..., 0].clamp(0, h)
        bottom = (self.y[..., -1] + 1).clamp(0, h)
        left = self.x[..., 0].clamp(0, w)
        right = (self.x[..., -1] + 1).clamp(0, w)
        n = torch.arange(self.N, device=marked.device)
        inside = (
            total[n, bottom, right]
            - total[n, top, right]
            - total[n, bottom, left]
            + total[n, top, left]
        )
        sees = (inside > 0).any(dim=1)
        if marked[-1]:
            whole = (bottom - top) * (right - left) == self.count
            sees |= ~whole.all(dim=1)
        return sees.nonzero()[:, 0]


def _as_rows(x: Tensor, outside: float) -> Tensor:
    """(1, N, C, h, w) -> (N * h * w + 1, C + 1): a row for each pixel, and one for all that is
    outside the map: zeros, and ``outside`` in the extra channel. Fast where the channels of a pixel
    are side by side already."""
    C = x.shape[2]
    pixels = x[0].permute(0, 2, 3, 1).reshape(-1, C)
    rows = x.new_empty(len(pixels) + 1, C + 1)
    rows[:-1, :C] = pixels
    rows[:-1, C] = 0
    rows[-1, :C] = 0
    rows[-1, C] = outside
    return rows


def _split(query: Tensor, rows: int, columns: int) -> Tensor:
    """(C, h, w) -> (T, 64, C + 1), with 1 in the last channel; zeros beyond the map."""
    C, h, w = query.shape
    padded = query.new_zeros(rows * TILE, columns * TILE, C + 1)
    padded[:h, :w, :C] = query.permute(1, 2, 0)
    padded[..., C] = 1
    tiles = padded.view(rows, TILE, columns, TILE, C + 1).transpose(1, 2)
    return tiles.reshape(rows * columns, TILE * TILE, C + 1)


def _join(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """(T, V, 64) -> (1, V, rows * 8, columns * 8)."""
    V = tiles.shape[1]
    maps = tiles.view(rows, columns, V, TILE, TILE).permute(2, 0, 3, 1, 4)
    return maps.reshape(1, V, rows * TILE, columns * TILE)


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Round numbers below 1e-38 to 0 in this thread. At low temperatures most weights are that
    small, and a CPU computes with them many times more slowly."""
    flushed = bool(torch.tensor(1e-38) * 1e-3 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
