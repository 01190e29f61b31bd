"""Chains reach as far as the paper states, densities merge to distributions, and known motion is
recovered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from corrfractal.network.appearance import appearance
from corrfractal.network.attention import Similarity
from corrfractal.network.chain import chain
from corrfractal.network.correspondence import (
    CorrespondenceConfig,
    References,
    draw_densities,
    grid,
    loss,
    propagate,
    pyramid,
    reconstruct,
    resize_labels,
)


def coordinates(
    H: int, W: int, shift: tuple[int, int] = (0, 0), sharp: float = 30.0
) -> torch.Tensor:
    """Features that are the coordinates themselves: the nearest one has the largest inner product.
    (1, 4, H, W)"""
    y, x = torch.meshgrid(torch.arange(H) - shift[0], torch.arange(W) - shift[1], indexing="ij")
    angles = [
        torch.stack((torch.cos(a), torch.sin(a))) for a in (y * 2 * np.pi / 64, x * 2 * np.pi / 64)
    ]
    return sharp * torch.cat(angles)[None].float()


def labels_of(mask: torch.Tensor) -> torch.Tensor:
    """bool (H, W) -> one-hot (1, 2, H, W)."""
    return F.one_hot(mask.long(), 2).permute(2, 0, 1)[None].float()


def square(H: int, W: int, y: int, x: int, side: int = 10) -> torch.Tensor:
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[y : y + side, x : x + side] = True
    return mask


@pytest.mark.parametrize(("distance", "found"), [(4, True), (10, True), (11, False)])
def test_two_11_by_11_steps_move_a_label_10_pixels_and_not_11(distance: int, found: bool) -> None:
    """A label sits on one pixel; the attractor asks for it ``distance`` pixels to the right."""
    f = coordinates(1, 64)
    f_t = coordinates(1, 64, shift=(0, distance))
    q = torch.zeros(1, 1, 1, 1, 64)
    q[..., 20] = 1
    _, carried = chain(f[:, None], q, f_t, radius=5, steps=2)
    assert bool(carried[0, 0, 0, 20 + distance] > 1e-3) == found


def test_identity_motion_keeps_labels() -> None:
    f = coordinates(24, 24, sharp=60)
    q = labels_of(square(24, 24, 6, 9))
    _, carried = chain(f[:, None], q[:, None], f, radius=5)
    assert (carried.argmax(1) == q.argmax(1)).float().mean() > 0.99


@pytest.mark.parametrize("shift", [(0, 3), (-6, 8)])
def test_a_known_translation_is_recovered_through_all_densities(shift: tuple[int, int]) -> None:
    H = W = 64
    before, after = square(H, W, 24, 22, 16), square(H, W, 24 + shift[0], 22 + shift[1], 16)
    F_ref, F_t = coordinates(H, W, sharp=60), coordinates(H, W, shift=shift, sharp=60)
    densities = (6.0, 4.0, 3.0, 2.0)
    references = [
        References(f[:, None], resize_labels(labels_of(before), f.shape[-2:])[:, None])
        for f in pyramid(F_ref, densities)
    ]
    q = propagate(references, pyramid(F_t, densities), F_t, CorrespondenceConfig())
    predicted = q[0].argmax(0) == 1
    iou = (predicted & after).sum() / (predicted | after).sum()
    assert iou > 0.85


@pytest.mark.parametrize(("H", "W"), [(48, 48), (33, 50)])
@pytest.mark.parametrize("references", [1, 5])
def test_reconstruction_is_a_distribution_at_full_resolution(
    H: int, W: int, references: int
) -> None:
    torch.manual_seed(0)
    F_ref, F_t = torch.randn(2, references, 8, H, W), torch.randn(2, 8, H, W)
    Q = F.one_hot(torch.randint(0, 16, (2, references, H, W)), 16).movedim(-1, 2).float()
    out = reconstruct(F_ref, Q, F_t, (3.7, 8.2), CorrespondenceConfig())
    assert out.shape == (2, 16, H, W)
    torch.testing.assert_close(out.sum(1), torch.ones(2, H, W), atol=1e-4, rtol=1e-4)


SWITCHES = [
    {"multi_density": False},
    {"full_radius": 1},
    {"steps": 1},
    {"steps": 4},
    {"radius": 2, "merge_radius": 0},
    {"refinement_density": 3.0},
    {"similarity": Similarity(kind="cosine")},
]


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_every_switch_gives_a_distribution_in_training_and_at_inference_and_a_gradient(
    switch: dict,
) -> None:
    torch.manual_seed(0)
    F_ref, F_t = torch.randn(1, 3, 8, 30, 26, requires_grad=True), torch.randn(1, 8, 30, 26)
    Q = F.one_hot(torch.randint(0, 5, (1, 3, 30, 26)), 5).movedim(-1, 2).float()
    config = CorrespondenceConfig(**switch)
    densities = (6.0, 3.0, 2.0)
    references = [
        References(
            torch.stack(f, 1),
            torch.stack([resize_labels(Q[:, n], f[0].shape[-2:]) for n in range(3)], 1),
        )
        for f in zip(*(pyramid(F_ref[:, n], densities) for n in range(3)), strict=True)
    ]
    for out in (
        reconstruct(F_ref, Q, F_t, (3.7, 8.2), config),
        propagate(references, pyramid(F_t, densities), F_t, config),
    ):
        torch.testing.assert_close(out.sum(1), torch.ones(1, 30, 26), atol=1e-4, rtol=1e-4)
        (grad,) = torch.autograd.grad(out.square().sum(), F_ref, retain_graph=True)
        assert grad.abs().sum() > 0


def test_without_c_the_labels_are_one_affinity_up_sampled() -> None:
    torch.manual_seed(0)
    F_ref, F_t = torch.randn(1, 1, 8, 32, 32), torch.randn(1, 8, 32, 32)
    Q = F.one_hot(torch.randint(0, 5, (1, 1, 32, 32)), 5).movedim(-1, 2).float()
    out = reconstruct(F_ref, Q, F_t, (4.0, 8.0), CorrespondenceConfig(multi_density=False))
    (f,), (f_t,), q = (
        pyramid(F_ref[:, 0], [4.0]),
        pyramid(F_t, [4.0]),
        resize_labels(Q[:, 0], (8, 8)),
    )
    _, low = chain(f[:, None], q[:, None], f_t, radius=5, steps=1)
    torch.testing.assert_close(out, resize_labels(low, (32, 32)))


def test_densities_stay_on_their_side_of_the_midpoint_and_above_one() -> None:
    config = CorrespondenceConfig()
    draws = np.array(
        [draw_densities(config, u) for u in np.random.default_rng(0).random((2000, 2))]
    )
    assert draws[:, 0].min() >= 1
    assert draws[:, 0].max() <= 6 <= draws[:, 1].min()
    assert draws.mean(0) == pytest.approx([3.85, 8.2], abs=0.2)


def test_a_narrow_gaussian_gives_its_means() -> None:
    config = CorrespondenceConfig(density_sigma=0.01)
    assert draw_densities(config, (0.5, 0.5)) == pytest.approx((4, 8), abs=0.02)


def test_grid_sizes_are_rounded_and_never_empty() -> None:
    assert grid(torch.zeros(480, 854), 18) == (27, 47)
    assert grid(torch.zeros(4, 4), 18) == (1, 1)


def test_loss_is_zero_for_certainty_and_large_but_finite_for_error() -> None:
    target = torch.tensor([[[0, 1]]])
    right = F.one_hot(target, 2).movedim(-1, 1).float()
    assert loss(right, target) == pytest.approx(0, abs=1e-6)
    assert loss(1 - right, target) == pytest.approx(18.42, abs=0.01)


@pytest.mark.parametrize("reading", ["literal", "time_reversed"])
def test_appearance_of_a_still_scene_with_sharp_features_reconstructs_its_labels(
    reading: str,
) -> None:
    f, Q = coordinates(16, 16, sharp=200), labels_of(square(16, 16, 4, 5, 6))
    assert ((appearance(f, f, Q, Q, reading) - Q).abs() < 1e-3).all()


def test_configurations_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="density_means"):
        CorrespondenceConfig(density_means=(8.0, 4.0))
