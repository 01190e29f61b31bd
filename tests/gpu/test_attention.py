"""Restricted attention on each device beside the naive form in float64 on the CPU."""

from __future__ import annotations

import pytest
import torch
from reference_attention import naive_restricted_attention
from torch import Tensor

from corrfractal import restricted_attention
from corrfractal.network import kernels

# (references, radius, height, width): tiles, tiles that the map cuts, offsets, a single position
CASES = [(1, 5, 16, 24), (3, 2, 19, 13), (2, 1, 16, 24), (2, 0, 9, 7)]


def inputs(N: int, H: int, W: int) -> list[Tensor]:
    """Query, keys, values and the gradient of the output, float64."""
    shapes = ((2, 8, H, W), (2, N, 8, H, W), (2, N, 5, H, W), (2, 5, H, W))
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def outputs(attention, tensors: list[Tensor], radius: int) -> list[Tensor]:
    """Output, and gradients of query, keys and values, on the CPU."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors[:3]]
    out = attention(*leaves, radius)
    out.backward(tensors[3])
    return [out.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves)]


@pytest.mark.parametrize(("N", "radius", "H", "W"), CASES)
@pytest.mark.parametrize("bands", ["one", "many"])
def test_output_and_gradients_are_those_of_the_naive_form(
    device: torch.device,
    N: int,
    radius: int,
    H: int,
    W: int,
    bands: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if bands == "many":
        monkeypatch.setattr(kernels, "BAND_BYTES", 1)
        monkeypatch.setattr(kernels, "GPU_BAND_BYTES", 1)
    exact = inputs(N, H, W)
    expected = outputs(naive_restricted_attention, exact, radius)
    single = [tensor.to(device, torch.float32) for tensor in exact]
    for ours, theirs in zip(outputs(restricted_attention, single, radius), expected, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("N", "radius", "H", "W"), CASES)
def test_bfloat16_is_off_by_its_rounding_only(
    device: torch.device, N: int, radius: int, H: int, W: int
) -> None:
    exact = inputs(N, H, W)
    expected = outputs(naive_restricted_attention, exact, radius)
    half = [tensor.to(device, torch.bfloat16) for tensor in exact]
    for ours, theirs in zip(outputs(restricted_attention, half, radius), expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), theirs, rtol=0.05, atol=0.05)


def test_gradients_pass_the_finite_difference_check(device: torch.device) -> None:
    tensors = [tensor.to(device).requires_grad_() for tensor in inputs(2, 9, 10)[:3]]
    for radius in (1, 3):
        assert torch.autograd.gradcheck(
            lambda q, k, v, r=radius: restricted_attention(q, k, v, r), tensors, fast_mode=True
        )
