"""Slow naive restricted attention: unfold keys and values, mask what is outside, one softmax. The
baseline of benchmarks and the expected value of tests."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def unfold_windows(x: Tensor, radius: int) -> Tensor:
    """(B, N, C, H, W) -> (B, N, C, windows, H, W), zeros outside."""
    B, N, C, H, W = x.shape
    side = 2 * radius + 1
    columns = F.unfold(x.reshape(B * N, C, H, W), side, padding=radius)
    return columns.reshape(B, N, C, side * side, H, W)


def naive_restricted_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    radius: int,
    scale: float | None = None,
    mask_border: bool = True,
    product: str = "einsum",
) -> Tensor:
    """As ``corrfractal.restricted_attention``. ``product``: ``einsum`` (leaner) or ``multiply``
    (often faster)."""
    _, C, _, _ = query.shape
    scale = 1 / math.sqrt(C) if scale is None else scale
    keys = unfold_windows(key, radius)
    values = unfold_windows(value, radius)
    inside = unfold_windows(torch.ones_like(key[:1, :1, :1]), radius)
    if product == "einsum":
        scores = torch.einsum("bchw,bnckhw->bnkhw", query, keys) * scale
    else:
        scores = (query[:, None, :, None] * keys).sum(2) * scale
    if mask_border:
        scores = scores.masked_fill(inside[:, :, 0] == 0, float("-inf"))
    weights = torch.softmax(scores.flatten(1, 2), dim=1).view_as(scores)
    if product == "einsum":
        return torch.einsum("bnkhw,bnvkhw->bvhw", weights, values)
    return (weights[:, :, None] * values).sum((1, 3))
