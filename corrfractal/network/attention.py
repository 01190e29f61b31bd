"""Restricted attention (eq. 1): every affinity of the paper (A^a, A^c, A^R) is this function.

Each target pixel sees the (2r+1) x (2r+1) window around its own position in every reference map;
one softmax runs over all windows together. Keys outside the image are masked, neither padded with
zeros nor clamped inward.

Unfolding keys and values makes (2r+1)^2 copies of them: 3 GiB for one reference of 240 x 427 and 11
x 11. Here the map is processed in bands whose scratch memory is bounded, forward and again backward
(only the inputs are kept), by one of two kernels:

    tiles    r >= 2: 8 x 8 queries and the (8+2r)^2 keys that they share, as batched matrix products
    offsets  r <= 1: one shifted product per window position, since most of a tile would be masked

Both are plain tensor operations, the same on CPU and CUDA. Rejected after trial
(``docs/decisions/0005``): flex_attention (no backward on CPU), NATTEN (clamps windows at the
border), torch.compile (14 s per new shape, and training draws shapes at random).

Shapes: B batch, N references, C embedding channels, V value channels, H x W map, r window radius.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from torch import Tensor

from corrfractal.common.config import Config
from corrfractal.labels.color import PATCH_CHANNELS

from .kernels import choose_kernel
from .matching import match


def restricted_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    radius: int,
    scale: float | None = None,
    mask_border: bool = True,
) -> Tensor:
    """Carry ``value`` from the references to the target by similarity within a window.

    out[b, :, y, x] = sum over n, |dy| <= radius, |dx| <= radius of
                      softmax(scale * <query[b, :, y, x], key[b, n, :, y+dy, x+dx]>)
                      * value[b, n, :, y+dy, x+dx]

    Args:
        query: (B, C, H, W) target embedding.
        key: (B, N, C, H, W) embeddings of N references.
        value: (B, N, V, H, W) labels, or labels and embedding.
        radius: window radius, 0 or more; 5 is the paper's 11 x 11.
        scale: factor on the inner product; 1 / sqrt(C) by default.
        mask_border: exclude keys outside the image. False counts them as zeros, as unfolding with
            padding does: their share of the softmax is lost.

    Returns:
        (B, V, H, W), dtype of ``value``. Differentiable once in all three. With one reference and
        radius 0 the softmax of a single entry is 1: the value itself.

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
    # A wider window than the image adds only masked keys.
    reach = min(radius, max(H, W) - 1) if mask_border else radius
    if scale is None:
        scale = 1 / math.sqrt(C)
    out: Tensor = _RestrictedAttention.apply(query, key, value, reach, scale, mask_border)
    return out


@dataclass(frozen=True, kw_only=True)
class Similarity(Config):
    """How alike two embeddings are, before the softmax."""

    kind: Literal["scaled", "inner", "cosine"] = "scaled"
    """``scaled``: <q, k> / sqrt(C); ``inner``: <q, k>; ``cosine``: <q, k> / (|q| |k| temperature).
    """
    temperature: PositiveFloat = 0.07
    """Of ``cosine``."""
    test_temperature: PositiveFloat | None = None
    """Of ``cosine`` at test time, where a lower one propagates labels better; None: that of
    training."""
    colour_temperature: PositiveFloat | None = None
    """Of colour at test time (``cosine`` only): the cosine of Lab patches, divided by this, is
    added to that of the embeddings. In training, where labels are made of colour, the input
    bottleneck keeps colour from the embedding. None: the embedding alone."""
    mask_border: bool = True
    """Exclude keys outside the image; see ``restricted_attention``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("test_temperature", "colour_temperature"):
            value = getattr(self, name)
            if value is not None and self.kind != "cosine":
                raise ValueError(f"{name} needs kind 'cosine', got {value} with {self.kind!r}")

    def attend(self, query: Tensor, key: Tensor, value: Tensor, radius: int) -> Tensor:
        """``restricted_attention`` with this similarity; with a colour temperature, the last
        channels of query and key are Lab patches."""
        query = self.prepare(query, dim=1)
        key = self.prepare(key, dim=2)
        scale = self._scale(query.shape[1])
        return restricted_attention(query, key, value, radius, scale, self.mask_border)

    def match(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        radius: int,
        shifts: Tensor | None = None,
        constant: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """``attend`` at test time: without gradients, see ``matching.match``."""
        query = self.prepare(query, dim=1)
        key = self.prepare(key, dim=2)
        results = []
        for q, k, v in zip(query.split(1), key.split(1), value.split(1), strict=True):
            result = match(
                q,
                k,
                v,
                radius,
                self._scale(query.shape[1]),
                mask_border=self.mask_border,
                shifts=shifts,
                constant=constant,
                weight=weight,
            )
            results.append(result)
        return torch.cat(results)

    def prepare(self, x: Tensor, dim: int = 1) -> Tensor:
        """Embeddings so scaled that their inner products are the cosines over their temperatures;
        for the other kinds, as they are."""
        return self._scaled(x, dim) if self.kind == "cosine" else x

    @property
    def of_prepared(self) -> Similarity:
        """The similarity of embeddings that went through ``prepare``."""
        if self.kind != "cosine":
            return self
        return Similarity(kind="inner", mask_border=self.mask_border)

    def _scale(self, channels: int) -> float:
        return 1 / math.sqrt(channels) if self.kind == "scaled" else 1.0

    @property
    def in_training(self) -> Similarity:
        """The same without the settings of test time."""
        return replace(self, test_temperature=None, colour_temperature=None)

    def _scaled(self, x: Tensor, dim: int) -> Tensor:
        """Unit vectors over the square root of their temperature, so that inner products are
        cosines over it."""
        temperature = self.test_temperature or self.temperature
        if self.colour_temperature is None:
            return F.normalize(x, dim=dim) / math.sqrt(temperature)
        f, colour = x.split((x.shape[dim] - PATCH_CHANNELS, PATCH_CHANNELS), dim=dim)
        # Inner products of joined vectors are sums: of the two cosines, each over its temperature.
        f = F.normalize(f, dim=dim) / math.sqrt(temperature)
        colour = F.normalize(colour, dim=dim) / math.sqrt(self.colour_temperature)
        return torch.cat((f, colour), dim=dim)


class _RestrictedAttention(torch.autograd.Function):
    """Saves only its inputs; the backward pass recomputes the affinities of each band."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        radius: int,
        scale: float,
        mask_border: bool,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.radius = radius
        ctx.scale = scale
        ctx.mask_border = mask_border
        with torch.autocast(query.device.type, enabled=False):
            query, key, value = _common_dtype(query, key, value)
            out = value.new_empty(value.shape[0], *value.shape[2:])
            kernel = choose_kernel(key, value, radius, mask_border)
            for part, band in kernel.bands(query.shape[0], query.shape[2]):
                out[part, :, band] = kernel.forward(
                    query[part], key[part], value[part], band, scale
                )
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        dtypes = [saved.dtype for saved in ctx.saved_tensors]
        with torch.autocast(grad_out.device.type, enabled=False):
            query, key, value = _common_dtype(*ctx.saved_tensors)
            grads = (torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value))
            kernel = choose_kernel(key, value, ctx.radius, ctx.mask_border)
            grad_out = grad_out.to(value.dtype)
            for part, band in kernel.bands(query.shape[0], query.shape[2]):
                inputs = (query[part], key[part], value[part], grad_out[part])
                # Slices are views: the kernel writes into ``grads``.
                kernel.backward(*inputs, band, ctx.scale, tuple(grad[part] for grad in grads))
        dq, dk, dv = (grad.to(dtype) for grad, dtype in zip(grads, dtypes, strict=True))
        return dq, dk, dv, None, None, None


def _common_dtype(*tensors: Tensor) -> list[Tensor]:
    """All in the widest dtype of them: under autocast the embedding is bfloat16, labels float32."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]
