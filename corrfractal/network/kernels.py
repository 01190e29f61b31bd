"""The two kernels behind ``corrfractal.network.attention``: how a band of rows is worked through, forward
and backward.

Shape suffixes: B batch, N references, C embedding channels, V value channels, H W map, K = 8 + 2r side of a tile's
keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 8
# Scratch memory of a band: larger leaves the cache of a CPU and gains nothing
BAND_BYTES = 12 << 20
GPU_BAND_BYTES = 512 << 20  # a GPU wants few large launches
MASKED = -1e30  # not -inf: a padded query sees no key at all, and its softmax must stay finite


def choose_kernel(key: Tensor, value: Tensor, radius: int, mask_border: bool) -> Tiles | Offsets:
    """The kernel for a window, with bands of as many rows and samples as fit into its share of
    scratch memory."""
    _, N, C, H, W = key.shape
    V, per_row = value.shape[2], N * W * key.element_size()
    budget = BAND_BYTES if key.device.type == "cpu" else GPU_BAND_BYTES
    kind: type[Tiles | Offsets]
    if radius <= 1:
        kind, least = Offsets, 8
        # A product, and the band's part of keys, values and their gradients
        row_bytes = per_row * 12 * max(C, V) / N
    else:
        kind, least = Tiles, TILE
        # gathered, scores, affinities
        row_bytes = per_row * (1 + 2 * radius / TILE) ** 2 * (C + V + 2 * TILE**2)
    rows = max(least, int(budget / row_bytes) // least * least)
    return kind(radius=radius, mask_border=mask_border, rows=rows, samples=max(1, rows // H))


@dataclass(frozen=True, kw_only=True)
class Bands:
    radius: int
    mask_border: bool
    rows: int
    samples: int

    def bands(self, count: int, height: int) -> Iterator[tuple[slice, slice]]:
        """Samples and rows of each band: rows of one sample, or several small samples whole."""
        for first in range(0, count, self.samples):
            for top in range(0, height, self.rows):
                yield slice(first, first + self.samples), slice(top, min(top + self.rows, height))

    def halo(self, x: Tensor, band: slice, height: int, width: int) -> Tensor:
        """Rows of a band and columns 0 .. width with ``radius`` more on every side; zeros outside
        the map."""
        r, (H, W) = self.radius, x.shape[-2:]
        top, bottom = max(band.start - r, 0), min(band.start + height + r, H)
        pad = (r, width + r - W, top - (band.start - r), band.start + height + r - bottom)
        return F.pad(x[..., top:bottom, :], pad)

    def add_halo(self, total: Tensor, part: Tensor, band: slice) -> None:
        """Add a band with halo back into the map: the transpose of ``halo``."""
        r, (H, W) = self.radius, total.shape[-2:]
        first = band.start - r
        top, bottom = max(first, 0), min(first + part.shape[-2], H)
        total[..., top:bottom, :] += part[..., top - first : bottom - first, r : r + W]

    def outside(self, like: Tensor, band: slice, height: int, width: int) -> Tensor:
        """bool (height + 2r, width + 2r): True where the halo lies outside the map; nowhere if that counts as zeros."""
        if not self.mask_border:
            return like.new_zeros(
                height + 2 * self.radius, width + 2 * self.radius, dtype=torch.bool
            )
        H, W = like.shape[-2:]
        y = torch.arange(
            band.start - self.radius, band.start + height + self.radius, device=like.device
        )
        x = torch.arange(-self.radius, width + self.radius, device=like.device)
        return ~(((y >= 0) & (y < H))[:, None] & ((x >= 0) & (x < W))[None, :])


class Offsets(Bands):
    """One shifted inner product per window position; affinities (B, H, W, N, (2r+1)^2)."""

    def affinities(self, query: Tensor, halo: Tensor, outside: Tensor, scale: float) -> Tensor:
        _, _, h, W = query.shape
        scores = query.new_empty(*halo.shape[:2], (2 * self.radius + 1) ** 2, h, W)
        for i, window in enumerate(self._windows(h, W)):
            torch.sum(query[:, None] * halo[..., *window], dim=2, out=scores[:, :, i])
            scores[:, :, i].masked_fill_(outside[window], MASKED)
        flat = scores.mul_(scale).flatten(1, 2).movedim(1, -1)
        return _softmax(flat).movedim(-1, 1).reshape(scores.shape)

    def _windows(self, h: int, W: int) -> list[tuple[slice, slice]]:
        side = 2 * self.radius + 1
        return [(slice(dy, dy + h), slice(dx, dx + W)) for dy in range(side) for dx in range(side)]

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: slice, scale: float
    ) -> Tensor:
        h, W = band.stop - band.start, query.shape[-1]
        outside = self.outside(query, band, h, W)
        weights = self.affinities(query[:, :, band], self.halo(key, band, h, W), outside, scale)
        values = self.halo(value, band, h, W)
        out = value.new_zeros(value.shape[0], value.shape[2], h, W)
        for i, window in enumerate(self._windows(h, W)):
            for n in range(key.shape[1]):
                out.addcmul_(values[:, n, :, *window], weights[:, n, i, None])
        return out

    def backward(
        self, query: Tensor, key: Tensor, value: Tensor, grad_out: Tensor, band: slice, scale: float,
        grads: tuple[Tensor, ...],
    ) -> None:  # fmt: skip
        h, W = band.stop - band.start, query.shape[-1]
        q, go = query[:, :, band], grad_out[:, :, band]
        keys, values = self.halo(key, band, h, W), self.halo(value, band, h, W)
        weights = self.affinities(q, keys, self.outside(query, band, h, W), scale)
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(keys), torch.zeros_like(values)
        windows = self._windows(h, W)
        dweights = torch.empty_like(weights)
        for i, window in enumerate(windows):
            torch.sum(go[:, None] * values[..., *window], dim=2, out=dweights[:, :, i])
            dv[..., *window].addcmul_(go[:, None], weights[:, :, i, None])
        mean = (weights * dweights).sum(dim=(1, 2), keepdim=True)
        dscores = weights.mul_(dweights.sub_(mean)).mul_(scale)
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
        K, groups = TILE + 2 * self.radius, math.ceil((TILE + 2 * self.radius) / TILE)
        # (B, N, C, rows, K, columns, K)
        tiles = part.view(B, *grid, C, N, K, K).permute(0, 4, 3, 1, 5, 2, 6)
        halo = total.new_zeros(B, N, C, (grid[0] + groups) * TILE, (grid[1] + groups) * TILE)
        for y in range(0, K, TILE):
            for x in range(0, K, TILE):
                h, w = min(TILE, K - y), min(TILE, K - x)
                place = halo[..., y : y + grid[0] * TILE, x : x + grid[1] * TILE]
                place = place.unflatten(-1, (grid[1], TILE)).unflatten(-3, (grid[0], TILE))
                place[..., :h, :, :w] += tiles[..., y : y + h, :, x : x + w]
        self.add_halo(
            total,
            halo[..., : grid[0] * TILE + 2 * self.radius, : grid[1] * TILE + 2 * self.radius],
            band,
        )

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
        return math.ceil((band.stop - band.start) / TILE), math.ceil(width / TILE)

    def far(self, like: Tensor) -> Tensor:
        """(64, 1, K * K): 0 where a key lies in the query's window, else a huge negative."""
        K = TILE + 2 * self.radius
        distance = (
            torch.arange(K, device=like.device)[None]
            - torch.arange(TILE, device=like.device)[:, None]
        )
        far = (distance - self.radius).abs() > self.radius  # (8, K)
        return self._masked(
            (far[:, None, :, None] | far[None, :, None, :]).reshape(TILE * TILE, 1, K * K), like
        )

    def beyond(self, like: Tensor, band: slice, grid: tuple[int, int]) -> Tensor:
        """(tiles, 1, 1, K * K): 0 where a key lies in the image, else a huge negative."""
        K = TILE + 2 * self.radius
        outside = self.outside(like, band, grid[0] * TILE, grid[1] * TILE)
        return self._masked(
            outside.unfold(0, K, TILE).unfold(1, K, TILE).reshape(-1, 1, 1, K * K), like
        )

    @staticmethod
    def _masked(where: Tensor, like: Tensor) -> Tensor:
        return torch.zeros(where.shape, dtype=like.dtype, device=like.device).masked_fill_(
            where, MASKED
        )

    def affinities(
        self, q: Tensor, k: Tensor, query: Tensor, band: slice, scale: float, N: int
    ) -> Tensor:
        grid = self.grid(band, query.shape[3])
        scores = torch.bmm(q * scale, k)
        windows = scores.view(-1, grid[0] * grid[1], TILE * TILE, N, k.shape[2] // N)
        windows.add_(self.far(query)).add_(self.beyond(query, band, grid))
        return _softmax(scores)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, band: slice, scale: float
    ) -> Tensor:
        grid = self.grid(band, query.shape[3])
        q, k, v = (
            self.split(query[:, :, band], grid),
            self.gather(key, band, grid),
            self.gather(value, band, grid),
        )
        weights = self.affinities(q, k, query, band, scale, key.shape[1])
        shape = (query.shape[0], value.shape[2], band.stop - band.start, query.shape[3])
        return self.join(torch.bmm(weights, v.transpose(1, 2)), shape, grid)

    def backward(
        self, query: Tensor, key: Tensor, value: Tensor, grad_out: Tensor, band: slice, scale: float,
        grads: tuple[Tensor, ...],
    ) -> None:  # fmt: skip
        grid = self.grid(band, query.shape[3])
        q, go = self.split(query[:, :, band], grid), self.split(grad_out[:, :, band], grid)
        k, v = self.gather(key, band, grid), self.gather(value, band, grid)
        weights = self.affinities(q, k, query, band, scale, key.shape[1])
        self.scatter_add(grads[2], torch.bmm(go.transpose(1, 2), weights), band, grid)
        dweights = torch.bmm(go, v)
        dscores = weights.mul_(dweights.sub_((weights * dweights).sum(dim=-1, keepdim=True))).mul_(
            scale
        )
        self.scatter_add(grads[1], torch.bmm(q.transpose(1, 2), dscores), band, grid)
        grads[0][:, :, band] = self.join(
            torch.bmm(dscores, k.transpose(1, 2)), query[:, :, band].shape, grid
        )


def _softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(
        scores.dtype
    )
