"""Multi-density correspondence (III-D.2, Fig. 5, eqs. 8-9): from several low resolutions to one at
full resolution.

A density d is the denominator of the sub-sampling: a frame of H x W becomes round(H / d) x round(W / d). For each
density Chain_L matches where a window reaches far; its result is carried to the R grid (1/2 of the frame), where
Chain_R matches again, finer. A^R merges densities by attention over all of their windows at once, and Chain_H takes
the merged map to full resolution.

Training (Fig. 5a) draws two densities and merges them in one softmax. Inference (Fig. 5b) goes
through six, coarse to fine, each merged with what the coarser ones agreed on. Symbols:
docs/method.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from corrfractal.common.config import Config

from .attention import Similarity
from .chain import chain


@dataclass(frozen=True, kw_only=True)
class CorrespondenceConfig(Config):
    """Switches of the correspondence module."""

    radius: int = 5
    """Window radius of Chain_L and Chain_R; 5 is the paper's 11 x 11."""
    test_radius: int | None = None
    """The same at test time, where memory frames lie farther back than in training; None: that of
    training."""
    steps: int = 2
    """Affinities per chain (paper, Table 6: 2 is best of 1 to 4)."""
    merge_radius: int = 1
    """Window radius of A^R."""
    full_radius: int = 0
    """Window radius of Chain_H; 0 is the paper's 1 x 1, which for a single map is up-sampling."""
    refinement_density: float = 2.0
    """Density of the R grid."""
    multi_density: bool = True
    """Off is the ablation without C: one affinity at the finest density in use, up-sampled, as the
    siblings do."""
    joint_references: bool = True
    """One softmax over all references in the first step; off: a chain for each, merged like
    densities."""
    merge: str = "progressive"
    """At inference. ``progressive``: each density with what the coarser ones gave (eq. 9);
    ``single``: one softmax."""
    similarity: Similarity = field(default_factory=Similarity)
    """How alike two embeddings are."""
    density_means: tuple[float, float] = (4.0, 8.0)
    """Means of the two Gaussians that training draws densities from."""
    density_sigma: float = 1.5
    """Their standard deviation; each is truncated at the midpoint of the means and at 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.merge not in ("progressive", "single"):
            raise ValueError(f"merge must be progressive or single, got {self.merge!r}")
        if (
            min(self.radius, self.test_radius or 0, self.merge_radius, self.full_radius) < 0
            or self.steps < 1
        ):
            raise ValueError("radii must be 0 or more and steps at least 1")
        if self.refinement_density < 1:
            raise ValueError(
                f"refinement_density must be at least 1, got {self.refinement_density}"
            )
        if not 1 < self.density_means[0] < self.density_means[1] or self.density_sigma <= 0:
            raise ValueError(
                "density_means must ascend from above 1 and density_sigma must be positive"
            )

    @property
    def at_test_time(self) -> CorrespondenceConfig:
        """The same as a tracker uses it."""
        return (
            self
            if self.test_radius is None
            else replace(self, radius=self.test_radius, test_radius=None)
        )


def draw_densities(config: CorrespondenceConfig, uniform: Sequence[float]) -> tuple[float, float]:
    """Two densities from the truncated Gaussians, by inverting their distribution functions.

    Args:
        config: means and standard deviation.
        uniform: two numbers in [0, 1), which decide the draw: the caller owns the randomness.
    """
    (low, high), sigma = config.density_means, config.density_sigma
    middle = (low + high) / 2
    return (
        _truncated_normal(low, sigma, 1.0, middle, uniform[0]),
        _truncated_normal(high, sigma, middle, 2 * high, uniform[1]),
    )


def grid(full: Tensor, density: float) -> tuple[int, int]:
    """Size at a density of a map (..., H, W) at full resolution; at least one pixel."""
    height, width = full.shape[-2:]
    return max(1, round(height / density)), max(1, round(width / density))


def resize_embedding(f: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, h, w): bilinear, antialiased when shrinking."""
    if f.shape[-2:] == size:
        return f
    return F.interpolate(f, size, mode="bilinear", antialias=True, align_corners=False)


def resize_labels(q: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, H, W) -> (B, K, h, w): area averages when shrinking, bilinear when growing; sums over
    K stay 1."""
    if q.shape[-2:] == size:
        return q
    if size[0] <= q.shape[-2] and size[1] <= q.shape[-1]:
        return F.adaptive_avg_pool2d(q, size)
    return F.interpolate(q, size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class References:
    """Reference frames at one density: f (B, N, C, h, w) and q (B, N, K, h, w)."""

    f: Tensor
    q: Tensor


def reconstruct(
    F_ref: Tensor,
    Q_ref: Tensor,
    F_t: Tensor,
    densities: Sequence[float],
    config: CorrespondenceConfig,
) -> Tensor:
    """Reconstruct the target's labels, training form (Fig. 5a, eq. 8): all densities merged in one
    softmax.

    Args:
        F_ref: (B, N, C, H, W) embeddings of the references, nearest first.
        Q_ref: (B, N, K, H, W) their labels.
        F_t: (B, C, H, W) embedding of the target.
        densities: the densities drawn for this step.

    Returns:
        (B, K, H, W) distribution over labels.
    """
    densities = densities if config.multi_density else [min(densities)]
    references = (_at_density(F_ref, Q_ref, d) for d in densities)
    return propagate(references, pyramid(F_t, densities), F_t, replace(config, merge="single"))


def pyramid(F_t: Tensor, densities: Sequence[float]) -> list[Tensor]:
    """One embedding (B, C, H, W) at each density. A target's pyramid serves again when the frame
    joins the memory."""
    return [resize_embedding(F_t, grid(F_t, d)) for d in densities]


def propagate(
    references: Iterable[References],
    targets: Sequence[Tensor],
    F_t: Tensor,
    config: CorrespondenceConfig,
) -> Tensor:
    """Predict the target's labels, inference form (Fig. 5b, eq. 9): densities one by one, coarse to
    fine.

    Args:
        references: the memory frames, one entry per density, coarsest first.
        targets: the target's ``pyramid`` at the same densities.
        F_t: (B, C, H, W) its embedding at full resolution.

    Returns:
        (B, K, H, W) distribution over labels.
    """
    return to_full(*refine(references, targets, F_t, config), F_t, config)


def refine(
    references: Iterable[References],
    targets: Sequence[Tensor],
    F_t: Tensor,
    config: CorrespondenceConfig,
) -> tuple[Tensor, Tensor]:
    """``propagate`` up to the last up-sampling: f (B, C, h, w) and q (B, K, h, w) on the R grid."""
    pairs = zip(references, targets, strict=True)
    if not config.multi_density:
        *_, (reference, f_t) = pairs
        return _chain(reference, f_t, config, steps=1)
    f_R = resize_embedding(F_t, grid(F_t, config.refinement_density))
    maps = (_to_refinement(reference, f_t, f_R, config) for reference, f_t in pairs)
    if config.merge == "single":
        return _merge(list(maps), f_R, config)
    return reduce(lambda so_far, refined: _merge([so_far, refined], f_R, config), maps)


def _to_refinement(
    ref: References, f_t: Tensor, f_R: Tensor, config: CorrespondenceConfig
) -> tuple[Tensor, Tensor]:
    """Chain_L at the density of the references, then Chain_R on the R grid."""
    f, q = _chain(ref, f_t, config, config.steps)
    size = (f_R.shape[-2], f_R.shape[-1])
    carried = References(f=resize_embedding(f, size)[:, None], q=resize_labels(q, size)[:, None])
    return _chain(carried, f_R, config, config.steps)


def _chain(
    ref: References, f_t: Tensor, config: CorrespondenceConfig, steps: int
) -> tuple[Tensor, Tensor]:
    """All references in one chain, or a chain for each."""
    if config.joint_references or ref.f.shape[1] == 1:
        return chain(ref.f, ref.q, f_t, config.radius, steps, config.similarity)
    singles = zip(ref.f.split(1, dim=1), ref.q.split(1, dim=1), strict=True)
    return _merge(
        [chain(f, q, f_t, config.radius, steps, config.similarity) for f, q in singles], f_t, config
    )


def _merge(
    maps: Sequence[tuple[Tensor, Tensor]], f_R: Tensor, config: CorrespondenceConfig
) -> tuple[Tensor, Tensor]:
    """A^R (eqs. 8 and 9): one softmax over the windows of all maps."""
    f, q = (torch.stack(parts, dim=1) for parts in zip(*maps, strict=True))
    return chain(f, q, f_R, config.merge_radius, 1, config.similarity)


def to_full(f: Tensor, q: Tensor, F_t: Tensor, config: CorrespondenceConfig) -> Tensor:
    """Chain_H: q on the R grid -> (B, K, H, W).

    Its softmax over a 1 x 1 window of a single map is exactly 1, so with radius 0 this is
    up-sampling.
    """
    size = (F_t.shape[-2], F_t.shape[-1])
    q = resize_labels(q, size)
    if config.full_radius == 0:
        return q
    return config.similarity.attend(
        F_t, resize_embedding(f, size)[:, None], q[:, None], config.full_radius
    )


def _at_density(F_ref: Tensor, Q_ref: Tensor, density: float) -> References:
    count, size = F_ref.shape[:2], grid(F_ref, density)
    return References(
        f=resize_embedding(F_ref.flatten(0, 1), size).unflatten(0, count),
        q=resize_labels(Q_ref.flatten(0, 1), size).unflatten(0, count),
    )


def _truncated_normal(mean: float, sigma: float, low: float, high: float, u: float) -> float:
    normal = NormalDist(mean, sigma)
    below, above = normal.cdf(low), normal.cdf(high)
    p = below + u * (above - below)
    return min(max(normal.inv_cdf(min(max(p, 1e-12), 1 - 1e-12)), low), high)


def loss(distribution: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of the reconstructed distribution (eqs. 10 and 11): mean of -log(p +
    1e-8) over pixels.

    Args:
        distribution: (B, K, H, W), sums to 1 over K.
        labels: int64 (B, H, W).
    """
    p = distribution.float().gather(1, labels[:, None])
    return -torch.log(p + 1e-8).mean()
