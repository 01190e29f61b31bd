"""Restricted attention, the one hot loop: every affinity of the paper (A^a, A^c, A^R) is this function.

Each target pixel looks at the (2r+1) x (2r+1) window around its own place in every reference map; one softmax runs
over all windows together. Keys outside the image do not exist: they are masked, neither padded with zeros nor clamped
inward.

The usual way unfolds keys and values, (2r+1)^2 copies of them: 3 GiB for one reference of 240 x 427 and 11 x 11. Here
the map is worked through in bands that stay within a fixed number of bytes, forward and again backward (nothing but
the inputs
is kept), by one of two kernels:

    tiles    r >= 2: 8 x 8 queries against the (8+2r)^2 keys that they share, as batched matrix products;
    offsets  r <= 1: one shifted product per window position, since a tile would mostly compute what it masks.

Both are plain tensor operations, the same on CPU and CUDA. Rejected after trial: flex_attention (no backward on CPU),
NATTEN (clamps windows at the border), torch.compile (14 s per new shape, and the shapes are random).

Shape suffixes: B batch, N references, C embedding channels, V value channels, H W map, K = 8 + 2r side of a tile's
keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Config

TILE = 8
BAND_BYTES = 24 << 20  # scratch memory of a band; larger gains nothing on CPU, where it leaves the cache
MASKED = -1e30  # not -inf: a padded query sees no key at all, and its softmax must stay finite


def restricted_attention(
    query: Tensor, key: Tensor, value: Tensor, radius: int, scale: float | None = None, mask_border: bool = True
) -> Tensor:
    """Carry ``value`` from the references to the target by similarity within a window.

    out[b, :, y, x] = sum over n, |dy| <= radius, |dx| <= radius of
                      softmax(scale * <query[b, :, y, x], key[b, n, :, y+dy, x+dx]>) * value[b, n, :, y+dy, x+dx]

    Args:
        query: (B, C, H, W) target embedding.
        key: (B, N, C, H, W) embeddings of N references.
        value: (B, N, V, H, W) what is carried over.
        radius: window radius, 0 or more; 5 is the paper's 11 x 11.
        scale: factor on the inner product; 1 / sqrt(C) by default.
        mask_border: leave out keys outside the image. False counts them as zeros, as unfolding with padding does: their
            share of the softmax is lost.

    Returns:
        (B, V, H, W), dtype of ``value``. Differentiable once in all three. With one reference and radius 0 the
        softmax of a single entry is 1: the value itself.

    Raises:
        ValueError: shapes do not fit together, or ``radius`` is negative.
    """
    B, C, H, W = query.shape
    if key.ndim != 5 or value.ndim != 5 or key.shape[0] != B or key.shape[2:] != (C, H, W):
        raise ValueError(f"key {tuple(key.shape)} does not fit query {tuple(query.shape)}")
    if value.shape[:2] != key.shape[:2] or value.shape[3:] != (H, W):
        raise ValueError(f"value {tuple(value.shape)} does not fit key {tuple(key.shape)}")
    if radius < 0:
        raise ValueError(f"radius must be 0 or more, got {radius}")
    if radius == 0 and key.shape[1] == 1:
        return value[:, 0]
    reach = min(radius, max(H, W) - 1) if mask_border else radius  # a window holds no more than the image
    scale = 1 / math.sqrt(C) if scale is None else scale
    out: Tensor = _RestrictedAttention.apply(query, key, value, reach, scale, mask_border)
    return out


@dataclass(frozen=True, kw_only=True)
class Similarity(Config):
    """How alike two embeddings are, before the softmax."""

    kind: str = "scaled"
    """``scaled``: <q, k> / sqrt(C); ``inner``: <q, k>; ``cosine``: <q, k> / (|q| |k|) / temperature."""
    temperature: float = 0.07
    """Of ``cosine``."""
    mask_border: bool = True
    """Leave out keys outside the image; see ``restricted_attention``."""

    def __post_init__(self) -> None:
        if self.kind not in ("scaled", "inner", "cosine"):
            raise ValueError(f"kind must be scaled, inner or cosine, got {self.kind!r}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def attend(self, query: Tensor, key: Tensor, value: Tensor, radius: int) -> Tensor:
        """``restricted_attention`` with this similarity."""
        scale = {"scaled": None, "inner": 1.0, "cosine": 1 / self.temperature}[self.kind]
        if self.kind == "cosine":
            query, key = F.normalize(query, dim=1), F.normalize(key, dim=2)
        return restricted_attention(query, key, value, radius, scale, self.mask_border)


class _RestrictedAttention(torch.autograd.Function):
    """Keeps only its inputs; the backward pass computes each band's affinities again."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, radius: int, scale: float, mask_border: bool
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.radius, ctx.scale, ctx.mask_border = radius, scale, mask_border
        with torch.autocast(query.device.type, enabled=False):
            query, key, value = _common_dtype(query, key, value)
            out = value.new_empty(value.shape[0], *value.shape[2:])
            kernel = _kernel(key, value, radius, mask_border)
            for band in kernel.bands(query.shape[2]):
                out[:, :, band] = kernel.forward(query, key, value, band, scale)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        dtypes = [saved.dtype for saved in ctx.saved_tensors]
        with torch.autocast(grad_out.device.type, enabled=False):
            query, key, value = _common_dtype(*ctx.saved_tensors)
            grads = (torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value))
            kernel = _kernel(key, value, ctx.radius, ctx.mask_border)
            for band in kernel.bands(query.shape[2]):
                kernel.backward(query, key, value, grad_out.to(value.dtype), band, ctx.scale, grads)
        dq, dk, dv = (grad.to(dtype) for grad, dtype in zip(grads, dtypes, strict=True))
        return dq, dk, dv, None, None, None


def _common_dtype(*tensors: Tensor) -> list[Tensor]:
    """Under autocast the embedding is bfloat16 and labels are float32: compute in the wider of them."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def _softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)


def _kernel(key: Tensor, value: Tensor, radius: int, mask_border: bool) -> _Tiles | _Offsets:
    B, N, C, _, W = key.shape
    per_row = B * N * W * key.element_size()
    if radius <= 1:
        rows = BAND_BYTES // (per_row * (3 * max(C, value.shape[2]) // N + (2 * radius + 1) ** 2))
        return _Offsets(radius=radius, mask_border=mask_border, rows=max(4, rows))
    K = TILE + 2 * radius
    copies = (K / TILE) ** 2 * (C + value.shape[2] + 2 * TILE**2)  # gathered keys and values, scores, affinities
    rows = TILE * max(1, int(BAND_BYTES / (per_row * copies * TILE)))
    return _Tiles(radius=radius, mask_border=mask_border, rows=rows)


@dataclass(frozen=True, kw_only=True)
class _Bands:
    radius: int
    mask_border: bool
    rows: int

    def bands(self, height: int) -> Iterator[slice]:
        for top in range(0, height, self.rows):
            yield slice(top, min(top + self.rows, height))

    def halo(self, x: Tensor, band: slice, height: int, width: int) -> Tensor:
        """Rows of a band and columns 0 .. width with ``radius`` more on every side; zeros outside the map."""
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
            return like.new_zeros(height + 2 * self.radius, width + 2 * self.radius, dtype=torch.bool)
        H, W = like.shape[-2:]
        y = torch.arange(band.start - self.radius, band.start + height + self.radius, device=like.device)
        x = torch.arange(-self.radius, width + self.radius, device=like.device)
        return ~(((y >= 0) & (y < H))[:, None] & ((x >= 0) & (x < W))[None, :])


class _Offsets(_Bands):
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

    def forward(self, query: Tensor, key: Tensor, value: Tensor, band: slice, scale: float) -> Tensor:
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
        grads: tuple[Tensor, Tensor, Tensor],
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


class _Tiles(_Bands):
    """Tiles of 8 x 8 queries share (8+2r)^2 keys: two batched matrix products, masked to each query's own window."""

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
        tiles = part.view(B, *grid, C, N, K, K).permute(0, 4, 3, 1, 5, 2, 6)  # (B, N, C, rows, K, columns, K)
        halo = total.new_zeros(B, N, C, (grid[0] + groups) * TILE, (grid[1] + groups) * TILE)
        for y in range(0, K, TILE):
            for x in range(0, K, TILE):
                h, w = min(TILE, K - y), min(TILE, K - x)
                place = halo[..., y : y + grid[0] * TILE, x : x + grid[1] * TILE]
                place = place.unflatten(-1, (grid[1], TILE)).unflatten(-3, (grid[0], TILE))
                place[..., :h, :, :w] += tiles[..., y : y + h, :, x : x + w]
        self.add_halo(total, halo[..., : grid[0] * TILE + 2 * self.radius, : grid[1] * TILE + 2 * self.radius], band)

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
        distance = torch.arange(K, device=like.device)[None] - torch.arange(TILE, device=like.device)[:, None]
        far = (distance - self.radius).abs() > self.radius  # (8, K)
        return self._masked((far[:, None, :, None] | far[None, :, None, :]).reshape(TILE * TILE, 1, K * K), like)

    def beyond(self, like: Tensor, band: slice, grid: tuple[int, int]) -> Tensor:
        """(tiles, 1, 1, K * K): 0 where a key lies in the image, else a huge negative."""
        K = TILE + 2 * self.radius
        outside = self.outside(like, band, grid[0] * TILE, grid[1] * TILE)
        return self._masked(outside.unfold(0, K, TILE).unfold(1, K, TILE).reshape(-1, 1, 1, K * K), like)

    @staticmethod
    def _masked(where: Tensor, like: Tensor) -> Tensor:
        return torch.zeros(where.shape, dtype=like.dtype, device=like.device).masked_fill_(where, MASKED)

    def affinities(self, q: Tensor, k: Tensor, query: Tensor, band: slice, scale: float, N: int) -> Tensor:
        grid = self.grid(band, query.shape[3])
        scores = torch.bmm(q * scale, k)
        windows = scores.view(-1, grid[0] * grid[1], TILE * TILE, N, k.shape[2] // N)
        windows.add_(self.far(query)).add_(self.beyond(query, band, grid))
        return _softmax(scores)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, band: slice, scale: float) -> Tensor:
        grid = self.grid(band, query.shape[3])
        q, k, v = self.split(query[:, :, band], grid), self.gather(key, band, grid), self.gather(value, band, grid)
        weights = self.affinities(q, k, query, band, scale, key.shape[1])
        shape = (query.shape[0], value.shape[2], band.stop - band.start, query.shape[3])
        return self.join(torch.bmm(weights, v.transpose(1, 2)), shape, grid)

    def backward(
        self, query: Tensor, key: Tensor, value: Tensor, grad_out: Tensor, band: slice, scale: float,
        grads: tuple[Tensor, Tensor, Tensor],
    ) -> None:  # fmt: skip
        grid = self.grid(band, query.shape[3])
        q, go = self.split(query[:, :, band], grid), self.split(grad_out[:, :, band], grid)
        k, v = self.gather(key, band, grid), self.gather(value, band, grid)
        weights = self.affinities(q, k, query, band, scale, key.shape[1])
        self.scatter_add(grads[2], torch.bmm(go.transpose(1, 2), weights), band, grid)
        dweights = torch.bmm(go, v)
        dscores = weights.mul_(dweights.sub_((weights * dweights).sum(dim=-1, keepdim=True))).mul_(scale)
        self.scatter_add(grads[1], torch.bmm(q.transpose(1, 2), dscores), band, grid)
        grads[0][:, :, band] = self.join(torch.bmm(dscores, k.transpose(1, 2)), query[:, :, band].shape, grid)
