"""The two kernels of ``attention.restricted_attention``: how a band of rows is computed, forward
and backward.

Shapes: B batch, N references, C embedding channels, V value channels, H x W map, h rows of a band,
r window radius, K = 8 + 2r side of the keys of a tile. A *band* is a range of rows of some samples;
its *halo* is the band with r more rows and columns on every side.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 8
# Scratch memory of a band: a larger one leaves the cache of a CPU and gains nothing.
BAND_BYTES = 12 << 20
GPU_BAND_BYTES = 512 << 20  # a GPU is fastest with few large launches
MASKED = -1e30  # not -inf: a query in the padding sees no key, and its softmax must stay finite


def choose_kernel(key: Tensor, value: Tensor, radius: int, mask_border: bool) -> Tiles | Offsets:
    """The kernel for a window; its bands have as many rows and samples as scratch memory holds."""
    _, N, C, H, W = key.shape
    V = value.shape[2]
    bytes_per_row = N * W * key.element_size()
    budget = BAND_BYTES if key.device.type == "cpu" else GPU_BAND_BYTES

    kind: type[Tiles | Offsets]
    if radius <= 1:
        kind = Offsets
        # A product, and the band's part of keys, values and their gradients
        scratch_per_row = bytes_per_row * 12 * max(C, V) / N
    else:
        kind = Tiles
        # Gathered keys and values, scores, affinities
        scratch_per_row = bytes_per_row * (1 + 2 * radius / TILE) ** 2 * (C + V + 2 * TILE**2)

    # Complete tiles only; a band is never less than one row of them.
    rows = max(TILE, int(budget / scratch_per_row) // TILE * TILE)
    return kind(radius=radius, mask_border=mask_border, rows=rows, samples=max(1, rows // H))


@dataclass(frozen=True, kw_only=True)
class Bands:
    """What both kernels share: bands of rows, their halos, and which keys are outside the map."""

    radius: int
    mask_border: bool
    rows: int
    samples: int

    def bands(self, count: int, height: int) -> Iterator[tuple[slice, slice]]:
        """Samples and rows of each band: rows of one sample, or all rows of several small ones."""
        for first in range(0, count, self.samples):
            samples = slice(first, first + self.samples)
            for top in range(0, height, self.rows):
                yield samples, slice(top, min(top + self.rows, height))

    def halo(self, x: Tensor, band: slice, height: int, width: int) -> Tensor:
        """Rows of a band and columns 0 .. width with ``radius`` more on every side; zeros outside
        the map."""
        r = self.radius
        H, W = x.shape[-2:]
        first = band.start - r
        last = band.start + height + r
        top = max(first, 0)
        bottom = min(last, H)
        return F.pad(x[..., top:bottom, :], (r, width + r - W, top - first, last - bottom))

    def add_halo(self, total: Tensor, part: Tensor, band: slice) -> None:
        """Add a band with halo back into the map: the transpose of ``halo``."""
        r = self.radius
        H, W = total.shape[-2:]
        first = band.start - r
        top = max(first, 0)
        bottom = min(first + part.shape[-2], H)
        # ``add_``, here and below: ``view[i] += x`` would also copy the sum onto itself.
        total[..., top:bottom, :].add_(part[..., top - first : bottom - first, r : r + W])

    def outside(self, like: Tensor, band: slice, height: int, width: int) -> Tensor:
        """bool (height + 2r, width + 2r): True where the halo is outside the map and masked."""
        r = self.radius
        if not self.mask_border:
            return like.new_zeros(height + 2 * r, width + 2 * r, dtype=torch.bool)
        H, W = like.shape[-2:]
        outside = like.new_ones(height + 2 * r, width + 2 * r, dtype=torch.bool)
        first = band.start - r
        outside[max(-first, 0) : max(H - first, 0), r : r + W].fill_(False)
        return outside


class Offsets(Bands):
    """One shifted inner product per window position."""

    def affinities(self, query: Tensor, halo: Tensor, outside: Tensor, scale: float) -> Tensor:
        """Softmax over all references and positions, (B, N, (2r+1)^2, h, W)."""
        _, _, h, W = query.shape
        scores = query.new_empty(*halo.shape[:2], (2 * self.radius + 1) ** 2, h, W)
        for i, window in enumerate(self._windows(h, W)):
            torch.sum(query[:, None] * halo[..., *window], dim=2, out=scores[:, :, i])
        # Of each position its part of ``outside``, as a view
        masked = outside.unfold(0, h, 1).unfold(1, W, 1)
        scores.unflatten(2, masked.shape[:2]).masked_fill_(masked, MASKED)
        flat = scores.mul_(scale).flatten(1, 2).movedim(1, -1)
        return _softmax(flat).movedim(-1, 1).reshape(scores.shape)

    def _windows(self, h: int, W: int) -> list[tuple[slice, slice]]:
        """The band's part of the halo at each window position, row by row."""
        shifts = range(2 * self.radius + 1)
        return [
            (slice(dy, dy + h), slice(dx, dx + W)) for dy, dx in itertools.product(shifts, shifts)
        ]

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: slice, scale: float
    ) -> Tensor:
        """The output of a band, (B, V, h, W)."""
        h = band.stop - band.start
        W = query.shape[-1]
        outside = self.outside(query, band, h, W)
        weights = self.affinities(query[:, :, band], self.halo(key, band, h, W), outside, scale)
        values = self.halo(value, band, h, W)
        out = value.new_zeros(value.shape[0], value.shape[2], h, W)
        for i, window in enumerate(self._windows(h, W)):
            for n in range(key.shape[1]):
                out.addcmul_(values[:, n, :, *window], weights[:, n, i, None])
        return out

    def backward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        grad_out: Tensor,
        band: slice,
        scale: float,
        grads: tuple[Tensor, ...],
    ) -> None:
        """Add the band's gradients of query, key and value to ``grads``, maps of their shapes."""
        h = band.stop - band.start
        W = query.shape[-1]
        q = query[:, :, band]
        go = grad_out[:, :, band]
        keys = self.halo(key, band, h, W)
        values = self.halo(value, band, h, W)
        weights = self.affinities(q, keys, self.outside(query, band, h, W), scale)

        # Of the weighted sum: values and weights
        dv = torch.zeros_like(values)
        dweights = torch.empty_like(weights)
        windows = self._windows(h, W)
        for i, window in enumerate(windows):
            torch.sum(go[:, None] * values[..., *window], dim=2, out=dweights[:, :, i])
            dv[..., *window].addcmul_(go[:, None], weights[:, :, i, None])

        # Of the softmax, in place: nothing needs the weights after it.
        mean = (weights * dweights).sum(dim=(1, 2), keepdim=True)
        dscores = weights.mul_(dweights.sub_(mean)).mul_(scale)

        # Of the inner products: query and keys
        dq = torch.zeros_like(q)
        dk = torch.zeros_like(keys)
        for i, window in enumerate(windows):
            for n in range(key.shape[1]):
                dq.addcmul_(keys[:, n, :, *window], dscores[:, n, i, None])
            dk[..., *window].addcmul_(q[:, None], dscores[:, :, i, None])

        grads[0][:, :, band] = dq
        self.add_halo(grads[1], dk, band)
        self.add_halo(grads[2], dv, band)


class Tiles(Bands):
    """Tiles of 8 x 8 queries share (8+2r)^2 keys: two batched matrix products, masked to each
    query's own window."""

    def gather(self, x: Tensor, band: slice, grid: tuple[int, int]) -> Tensor:
        """(B, N, C, H, W) -> (B * tiles, C, N * K * K)."""
        K = TILE + 2 * self.radius
        halo = self.halo(x, band, grid[0] * TILE, grid[1] * TILE)
        windows = halo.unfold(-2, K, TILE).unfold(-2, K, TILE)  # (B, N, C, rows, columns, K, K)
        return windows.permute(0, 3, 4, 2, 1, 5, 6).reshape(-1, x.shape[2], x.shape[1] * K * K)

    def scatter_add(self, total: Tensor, part: Tensor, band: slice, grid: tuple[int, int]) -> None:
        """The transpose of ``gather``: tiles overlap, so they are added in groups that do not."""
        B, N, C = total.shape[:3]
        K = TILE + 2 * self.radius
        groups = math.ceil(K / TILE)
        # (B, N, C, rows, K, columns, K)
        tiles = part.view(B, *grid, C, N, K, K).permute(0, 4, 3, 1, 5, 2, 6)
        halo = total.new_zeros(B, N, C, (grid[0] + groups) * TILE, (grid[1] + groups) * TILE)
        for y in range(0, K, TILE):
            for x in range(0, K, TILE):
                h = min(TILE, K - y)
                w = min(TILE, K - x)
                place = halo[..., y : y + grid[0] * TILE, x : x + grid[1] * TILE]
                place = place.unflatten(-1, (grid[1], TILE)).unflatten(-3, (grid[0], TILE))
                place[..., :h, :, :w].add_(tiles[..., y : y + h, :, x : x + w])
        bottom = grid[0] * TILE + 2 * self.radius
        right = grid[1] * TILE + 2 * self.radius
        self.add_halo(total, halo[..., :bottom, :right], band)

    def split(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, h, W) -> (B * tiles, 64, C), zeros where the map ends inside a tile."""
        x = F.pad(x, (0, grid[1] * TILE - x.shape[3], 0, grid[0] * TILE - x.shape[2]))
        tiles = x.unflatten(3, (grid[1], TILE)).unflatten(2, (grid[0], TILE))
        return tiles.permute(0, 2, 4, 3, 5, 1).reshape(-1, TILE * TILE, x.shape[1])

    def join(self, tiles: Tensor, shape: tuple[int, ...], grid: tuple[int, int]) -> Tensor:
        """The inverse of ``split``: -> (B, C, h, W)."""
        B, C, h, W = shape
        x = tiles.view(B, *grid, TILE, TILE, C).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(B, C, grid[0] * TILE, grid[1] * TILE)[:, :, :h, :W]

    def grid(self, band: slice, width: int) -> tuple[int, int]:
        """Rows and columns of tiles that cover a band."""
        return math.ceil((band.stop - band.start) / TILE), math.ceil(width / TILE)

    def beyond(self, like: Tensor, band: slice, grid: tuple[int, int]) -> Tensor:
        """(tiles, 1, 1, K * K): 0 where a key is in the image, ``MASKED`` elsewhere."""
        K = TILE + 2 * self.radius
        outside = self.outside(like, band, grid[0] * TILE, grid[1] * TILE)
        bias = like.new_zeros(outside.shape).masked_fill_(outside, MASKED)
        return bias.unfold(0, K, TILE).unfold(1, K, TILE).reshape(-1, 1, 1, K * K)

    def affinities(
        self, q: Tensor, k: Tensor, query: Tensor, band: slice, scale: float, N: int
    ) -> Tensor:
        """Softmax over all references and keys of a tile, (B * tiles, 64, N * K * K)."""
        grid = self.grid(band, query.shape[3])
        scores = torch.bmm(q * scale, k)
        # A view of the scores, masked in place by one term for each query of a tile and one for
        # each tile: their sum would be as large as the scores.
        windows = scores.view(-1, grid[0] * grid[1], TILE * TILE, N, k.shape[2] // N)
        windows.add_(far(self.radius, scores.dtype, scores.device))
        windows.add_(self.beyond(query, band, grid))
        return _softmax(scores)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: slice, scale: float
    ) -> Tensor:
        """The output of a band, (B, V, h, W)."""
        grid = self.grid(band, query.shape[3])
        q = self.split(query[:, :, band], grid)
        k = self.gather(key, band, grid)
        v = self.gather(value, band, grid)
        weights = self.affinities(q, k, query, band, scale, key.shape[1])
        shape = (query.shape[0], value.shape[2], band.stop - band.start, query.shape[3])
        return self.join(torch.bmm(weights, v.transpose(1, 2)), shape, grid)

    def backward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        grad_out: Tensor,
        band: slice,
        scale: float,
        grads: tuple[Tensor, ...],
    ) -> None:
        """Add the band's gradients of query, key and value to ``grads``, maps of their shapes."""
        grid = self.grid(band, query.shape[3])
        q = self.split(query[:, :, band], grid)
        go = self.split(grad_out[:, :, band], grid)
        k = self.gather(key, band, grid)
        v = self.gather(value, band, grid)
        weights = self.affinities(q, k, query, band, scale, key.shape[1])

        # Of the weighted sum: values and weights
        self.scatter_add(grads[2], torch.bmm(go.transpose(1, 2), weights), band, grid)
        dweights = torch.bmm(go, v)

        # Of the softmax, in place: nothing needs the weights after it.
        mean = (weights * dweights).sum(dim=-1, keepdim=True)
        dscores = weights.mul_(dweights.sub_(mean)).mul_(scale)

        # Of the inner products: keys and query
        self.scatter_add(grads[1], torch.bmm(q.transpose(1, 2), dscores), band, grid)
        dq = torch.bmm(dscores, k.transpose(1, 2))
        grads[0][:, :, band] = self.join(dq, query[:, :, band].shape, grid)


@functools.cache
def far(radius: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(64, 1, K * K): 0 where a key of a tile is in the window of a query, ``MASKED`` elsewhere."""
    # Autograd refuses tensors that inference mode made, and these are kept.
    with torch.inference_mode(False), torch.no_grad():
        keys = torch.arange(TILE + 2 * radius, device=device)
        queries = torch.arange(TILE, device=device)
        apart = (keys[None] - queries[:, None] - radius).abs() > radius  # (8, K)
        masked = apart[:, None, :, None] | apart[None, :, None, :]
        bias = torch.zeros(masked.shape, dtype=dtype, device=device).masked_fill_(masked, MASKED)
        return bias.reshape(TILE * TILE, 1, -1)


def _softmax(scores: Tensor) -> Tensor:
    """Over the last dimension, in float32 at least, dtype of ``scores``."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores, dim=-1, dtype=dtype).to(scores.dtype)
