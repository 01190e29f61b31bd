"""Restricted attention equals its formula in values and gradients, for any size of bands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_attention import naive_restricted_attention

from corrfractal import restricted_attention
from corrfractal.labels.color import PATCH_CHANNELS
from corrfractal.network import attention, kernels

CASES = [
    # B, N, C, V, H, W, radius
    (2, 3, 4, 3, 9, 13, 0),
    (2, 1, 4, 3, 9, 13, 1),
    (2, 5, 8, 3, 20, 20, 1),
    (1, 3, 4, 2, 17, 10, 2),
    (2, 2, 3, 5, 16, 8, 5),
    (1, 1, 4, 3, 1, 7, 1),
    (1, 2, 4, 3, 5, 3, 5),  # the window is larger than the image
    (1, 2, 4, 3, 33, 25, 5),
]


def _inputs(
    B: int, N: int, C: int, V: int, H: int, W: int, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(B * 31 + H * 7 + W)
    shapes = ((B, C, H, W), (B, N, C, H, W), (B, N, V, H, W))
    return tuple(torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes)


@pytest.mark.parametrize("mask_border", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_the_naive_form(
    case: tuple[int, ...], mask_border: bool
) -> None:
    *shape, radius = case
    inputs = _inputs(*shape)
    ours = restricted_attention(*inputs, radius, mask_border=mask_border)
    naive = naive_restricted_attention(*inputs, radius, mask_border=mask_border)
    torch.testing.assert_close(ours, naive)
    grad = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grad, retain_graph=True),
        torch.autograd.grad(naive, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("radius", [0, 1, 5])
def test_gradients_pass_gradcheck_in_double_precision(radius: int) -> None:
    inputs = _inputs(1, 2, 2, 2, 6, 9)
    assert torch.autograd.gradcheck(lambda *x: restricted_attention(*x, radius), inputs)


@pytest.mark.parametrize("radius", [1, 3])
def test_working_in_many_small_bands_changes_nothing(
    radius: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = _inputs(2, 2, 4, 3, 41, 19)
    whole = restricted_attention(*inputs, radius)
    grads = torch.autograd.grad(whole.square().sum(), inputs)
    monkeypatch.setattr(kernels, "BAND_BYTES", 1)
    banded = restricted_attention(*inputs, radius)
    torch.testing.assert_close(banded, whole)
    for a, b in zip(torch.autograd.grad(banded.square().sum(), inputs), grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_the_three_similarities_equal_their_formulas(radius: int) -> None:
    query, key, value = _inputs(1, 2, 9, 2, 7, 8)
    unit = torch.nn.functional.normalize
    for similarity, expected in (
        (attention.Similarity(), (query, key, value, radius, 1 / 3)),
        (attention.Similarity(kind="inner"), (query, key, value, radius, 1.0)),
        (
            attention.Similarity(kind="cosine", temperature=0.5),
            (unit(query, dim=1), unit(key, dim=2), value, radius, 2.0),
        ),
    ):
        torch.testing.assert_close(
            similarity.attend(query, key, value, radius), naive_restricted_attention(*expected)
        )


def test_at_test_time_the_cosines_of_embedding_and_colour_add_up_each_over_its_temperature() -> (
    None
):
    query, key, value = _inputs(1, 2, 5 + PATCH_CHANNELS, 2, 7, 8)
    similarity = attention.Similarity(kind="cosine", test_temperature=0.5, colour_temperature=0.25)
    unit = torch.nn.functional.normalize
    q = torch.cat((unit(query[:, :5], dim=1) * 2**0.5, unit(query[:, 5:], dim=1) * 2), dim=1)
    k = torch.cat((unit(key[:, :, :5], dim=2) * 2**0.5, unit(key[:, :, 5:], dim=2) * 2), dim=2)
    expected = naive_restricted_attention(q, k, value, 2, 1.0)
    torch.testing.assert_close(similarity.attend(query, key, value, 2), expected)
    assert similarity.in_training == attention.Similarity(kind="cosine")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour_temperature": 0.1}, "colour_temperature needs kind 'cosine', got 0.1"),
        ({"test_temperature": 0.1, "kind": "inner"}, "test_temperature needs kind 'cosine'"),
        ({"kind": "cosine", "test_temperature": 0.0}, "test_temperature.*got 0.0"),
        ({"temperature": -1.0}, "temperature.*got -1.0"),
        ({"kind": "dot"}, "kind.*got 'dot'"),
    ],
)
def test_similarity_refuses_values_out_of_range_and_temperatures_without_the_cosine(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        attention.Similarity(**fields)


@pytest.mark.parametrize("radius", [1, 5])
def test_weights_sum_to_one_at_the_border_too(radius: int) -> None:
    query, key, _ = _inputs(1, 3, 4, 2, 12, 11)
    ones = torch.ones(1, 3, 1, 12, 11, dtype=torch.float64)
    torch.testing.assert_close(restricted_attention(query, key, ones, radius), ones[:, 0])


def test_one_reference_and_radius_zero_is_the_identity() -> None:
    query, key, value = _inputs(2, 1, 4, 3, 5, 6)
    assert torch.equal(restricted_attention(query, key, value, 0), value[:, 0])


@pytest.mark.parametrize("radius", [1, 5])
def test_under_bfloat16_autocast_values_stay_finite_and_near(radius: int) -> None:
    query, key, value = (x.detach().float() for x in _inputs(1, 2, 16, 4, 24, 24))
    exact = restricted_attention(query, key, value, radius)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = restricted_attention(query.bfloat16(), key.bfloat16(), value, radius)
    assert mixed.dtype == value.dtype
    assert torch.isfinite(mixed).all()
    torch.testing.assert_close(mixed, exact, atol=0.1, rtol=0.1)


def test_1000_random_steps_of_bfloat16_autocast_stay_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    for step in range(1000):
        radius, references = (0, 1, 2, 5)[step % 4], 1 + step % 3
        magnitude = 10 ** float(torch.empty(()).uniform_(-3, 3, generator=generator))
        shapes = ((1, 4, 7, 6), (1, references, 4, 7, 6), (1, references, 3, 7, 6))
        inputs = [magnitude * torch.randn(s, generator=generator).bfloat16() for s in shapes]
        inputs = [x.requires_grad_() for x in inputs]
        with torch.autocast("cpu", torch.bfloat16):
            out = restricted_attention(*inputs, radius)
        grads = torch.autograd.grad(out.float().square().sum(), inputs, allow_unused=True)
        assert torch.isfinite(out).all(), (step, radius, magnitude)
        assert all(torch.isfinite(grad).all() for grad in grads if grad is not None), (
            step,
            radius,
            magnitude,
        )


def test_huge_similarities_do_not_overflow() -> None:
    query, key, value = (x.detach().float() for x in _inputs(1, 1, 4, 2, 9, 9))
    for radius in (1, 2):
        out = restricted_attention(query * 1e4, key * 1e4, value, radius)
        assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    ("query", "key", "value", "radius", "message"),
    [
        ((1, 4, 5, 5), (1, 2, 3, 5, 5), (1, 2, 1, 5, 5), 1, "key"),
        ((1, 4, 5, 5), (1, 2, 4, 5, 5), (1, 1, 1, 5, 5), 1, "value"),
        ((1, 4, 5, 5), (1, 2, 4, 5, 5), (1, 2, 1, 5, 5), -1, "radius"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_their_sizes(
    query, key, value, radius, message
) -> None:
    with pytest.raises(ValueError, match=message):
        restricted_attention(torch.zeros(query), torch.zeros(key), torch.zeros(value), radius)


PEAK = """
import sys, torch
from pathlib import Path
from corrfractal import restricted_attention

def status(field):
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(field))

x = [torch.randn(*s) for s in ((1, 16, 200, 200), (1, 2, 16, 200, 200), (1, 2, 8, 200, 200))]
restricted_attention(*(t[..., :16, :16] for t in x), 2)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
restricted_attention(*x, int(sys.argv[1]))
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(),
    reason="reads the kernel's high-water mark, Linux only",
)
def test_peak_memory_does_not_grow_with_the_window() -> None:
    """Unfolding keys and values would take 376 MB at 7 x 7 and 1.7 GB at 15 x 15. (A band is never
    less than one row of tiles, so that very wide windows take more.)"""
    small, large = (
        int(
            subprocess.run(
                [sys.executable, "-c", PEAK, radius], capture_output=True, text=True, check=True
            ).stdout
        )
        for radius in ("3", "7")
    )
    assert small < 40 << 10
    assert large < 40 << 10
