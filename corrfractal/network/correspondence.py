"""Multi-density correspondence (III-D.2, Fig. 5, eqs. 8-9): from several low resolutions to one at
full resolution.

A density d is the denominator of the sub-sampling: a frame of H x W becomes round(H / d) x
round(W / d). At each density Chain_L matches in a window that reaches far. Its result is resized to
the R grid (1/2 of the frame), where Chain_R matches again, finer. A^R merges densities by attention
over all of their windows at once, and Chain_H takes the merged map to full resolution.

Training (Fig. 5a) draws two densities and merges them in one softmax. Inference (Fig. 5b) uses six,
coarse to fine, and merges each with the result of the coarser ones.

Shapes: B batch, N references, C embedding channels, K labels; H x W the frame, h x w a reduced
grid. Symbols (docs/explanation/method.md): F, Q at full resolution, f, q reduced.

Deviations from the paper: none in the equations. It leaves open the grid of A^R (1/2 here, since
each enlargement has to stay below the window) and the order of merging (coarse to fine here).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from statistics import NormalDist
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from corrfractal.common.config import Config

from .attention import Similarity
from .chain import chain


@dataclass(frozen=True, kw_only=True)
class CorrespondenceConfig(Config):
    """Switches of the correspondence module."""

    SETTLED: ClassVar[dict[str, Any]] = {"joint_references": True, "merge": "progressive"}

    radius: NonNegativeInt = 5
    """Window radius of Chain_L and Chain_R; 5 is the paper's 11 x 11."""
    test_radius: NonNegativeInt | None = None
    """The same at test time, where memory frames are farther back than in training; None: that of
    training."""
    follow_motion: bool = False
    """At test time, centre the windows of Chain_L on the motion of the objects, see ``motion``."""
    weigh_by_certainty: bool = False
    """At test time, count the labels of memory frames by their certainty, see ``certainty``."""
    test_pixels: PositiveInt = 1920 * 1080
    """At test time, larger frames are embedded at so many pixels at most."""
    test_cells: PositiveInt | None = None
    """At test time, a single density is so much coarser than the first of ``density_means`` that
    its grid has about so many cells at most: time and reach are then those of a frame of any size.
    None: always that density."""
    steps: PositiveInt = 2
    """Affinities per chain (paper, Table 6: 2 is best of 1 to 4)."""
    merge_radius: NonNegativeInt = 1
    """Window radius of A^R."""
    full_radius: NonNegativeInt = 0
    """Window radius of Chain_H; 0 is the paper's 1 x 1, which for a single map is up-sampling."""
    refinement_density: Annotated[float, Field(ge=1)] = 2.0
    """Density of the R grid."""
    multi_density: bool = True
    """False is the ablation without C: one affinity at the finest density in use, up-sampled, as
    the siblings do."""
    similarity: Similarity = field(default_factory=Similarity)
    """How alike two embeddings are."""
    density_means: tuple[float, float] = (4.0, 8.0)
    """Means of the two Gaussians that training draws densities from."""
    density_sigma: PositiveFloat = 1.5
    """Their standard deviation; each is truncated at the midpoint of the means and at 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.density_means
        if not 1 < low < high:
            raise ValueError(f"density_means must ascend from above 1, got {self.density_means}")

    @property
    def at_test_time(self) -> CorrespondenceConfig:
        """The same with the window of test time, as a tracker uses it."""
        if self.test_radius is None:
            return self
        return replace(self, radius=self.test_radius, test_radius=None)


def draw_densities(config: CorrespondenceConfig, uniform: Sequence[float]) -> tuple[float, float]:
    """Two densities from the truncated Gaussians of Fig. 9, by inverting their distribution
    functions.

    Args:
        config: means and standard deviation.
        uniform: two numbers in [0, 1), which decide the draw: the caller owns the randomness.
    """
    low, high = config.density_means
    sigma = config.density_sigma
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
    """Reference frames at one density: f (B, N, C, h, w) and q (B, N, K, h, w). ``shifts``,
    ``constant`` (labels of most pixels) and ``weight`` (of the labels) are those of
    ``matching.match``."""

    f: Tensor
    q: Tensor
    shifts: Tensor | None = None
    constant: Tensor | None = None
    weight: Tensor | None = None

    @property
    def weighted(self) -> Tensor:
        """Labels times their weights."""
        return self.q if self.weight is None else self.q * self.weight


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
    if not config.multi_density:
        finest = min(densities)
        reference = _at_density(F_ref, Q_ref, finest)
        f, q = _single_affinity(reference, resize_embedding(F_t, grid(F_t, finest)), config)
        return to_full(f, q, F_t, config)

    # The order of these calls is the order in which gradients of F_t are summed: another one
    # changes their last digits, and with them a seeded run.
    targets = pyramid(F_t, densities)
    f_R = resize_embedding(F_t, grid(F_t, config.refinement_density))
    maps = []
    for density, f_t in zip(densities, targets, strict=True):
        reference = _at_density(F_ref, Q_ref, density)
        maps.append(_to_refinement(reference, f_t, f_R, config))
    f, q = _merge(maps, f_R, config)
    return to_full(f, q, F_t, config)


def pyramid(F_t: Tensor, densities: Sequence[float]) -> list[Tensor]:
    """One embedding (B, C, h, w) at each density. A tracker reuses a target's pyramid when the
    frame joins the memory."""
    return [resize_embedding(F_t, grid(F_t, density)) for density in densities]


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
    f_R = resize_embedding(F_t, grid(F_t, config.refinement_density))
    f, q = refine(references, targets, f_R, config)
    return to_full(f, q, F_t, config)


def refine(
    references: Iterable[References],
    targets: Sequence[Tensor],
    f_R: Tensor,
    config: CorrespondenceConfig,
) -> tuple[Tensor, Tensor]:
    """``propagate`` up to the last up-sampling.

    Args:
        references, targets, config: as ``propagate``.
        f_R: (B, C, h, w) the target's embedding on the R grid; unused at a single density.

    Returns:
        f, (B, C, h, w), and q, (B, K, h, w), on the R grid, or on that of the single density. There
        f has no channels unless Chain_H needs it.
    """
    pairs = zip(references, targets, strict=True)
    if not config.multi_density:
        *_, (finest, f_t) = pairs
        return _match_once(finest, f_t, config)

    # A generator: the references of one density at a time are in memory.
    maps = (_to_refinement(reference, f_t, f_R, config) for reference, f_t in pairs)
    return reduce(lambda merged, finer: _merge([merged, finer], f_R, config), maps)


def _single_affinity(
    ref: References, f_t: Tensor, config: CorrespondenceConfig
) -> tuple[Tensor, Tensor]:
    """The ablation without C: one affinity in place of chains and densities."""
    return chain(ref.f, ref.q, f_t, config.radius, 1, config.similarity)


def _match_once(
    ref: References, f_t: Tensor, config: CorrespondenceConfig
) -> tuple[Tensor, Tensor]:
    """``_single_affinity`` without gradients; f is carried only if Chain_H needs it."""
    match = partial(config.similarity.match, f_t, ref.f, radius=config.radius, shifts=ref.shifts)
    if config.full_radius == 0:
        return f_t[:, :0], match(value=ref.q, constant=ref.constant, weight=ref.weight)
    C = f_t.shape[1]
    carried = match(value=torch.cat((ref.f, ref.weighted), dim=2))
    return carried[:, :C], carried[:, C:]


def _to_refinement(
    ref: References, f_t: Tensor, f_R: Tensor, config: CorrespondenceConfig
) -> tuple[Tensor, Tensor]:
    """Chain_L at the density of the references, then Chain_R on the R grid."""
    q = ref.weighted
    f, q = chain(ref.f, q, f_t, config.radius, config.steps, config.similarity, ref.shifts)
    size = (f_R.shape[-2], f_R.shape[-1])
    f_reference = resize_embedding(f, size)[:, None]
    q_reference = resize_labels(q, size)[:, None]
    return chain(f_reference, q_reference, f_R, config.radius, config.steps, config.similarity)


def _merge(
    maps: Sequence[tuple[Tensor, Tensor]], f_R: Tensor, config: CorrespondenceConfig
) -> tuple[Tensor, Tensor]:
    """A^R (eqs. 8 and 9): one softmax over the windows of all maps."""
    f = torch.stack([f for f, _ in maps], dim=1)
    q = torch.stack([q for _, q in maps], dim=1)
    return chain(f, q, f_R, config.merge_radius, 1, config.similarity)


def to_full(f: Tensor, q: Tensor, F_t: Tensor, config: CorrespondenceConfig) -> Tensor:
    """Chain_H: f (B, C, h, w) and q (B, K, h, w) on the R grid -> (B, K, H, W).

    Its softmax over a 1 x 1 window of a single map is exactly 1, so with radius 0 this is
    up-sampling.
    """
    size = (F_t.shape[-2], F_t.shape[-1])
    Q = resize_labels(q, size)
    if config.full_radius == 0:
        return Q
    F_R = resize_embedding(f, size)
    return config.similarity.attend(F_t, F_R[:, None], Q[:, None], config.full_radius)


def loss(distribution: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of the reconstructed distribution (eqs. 10 and 11): mean of
    -log(p + 1e-8) over pixels.

    Args:
        distribution: (B, K, H, W), sums to 1 over K.
        labels: int64 (B, H, W).
    """
    p = distribution.float().gather(1, labels[:, None])
    return -torch.log(p + 1e-8).mean()


def _at_density(F_ref: Tensor, Q_ref: Tensor, density: float) -> References:
    B_and_N = F_ref.shape[:2]
    size = grid(F_ref, density)
    return References(
        f=resize_embedding(F_ref.flatten(0, 1), size).unflatten(0, B_and_N),
        q=resize_labels(Q_ref.flatten(0, 1), size).unflatten(0, B_and_N),
    )


def _truncated_normal(mean: float, sigma: float, low: float, high: float, u: float) -> float:
    normal = NormalDist(mean, sigma)
    below = normal.cdf(low)
    above = normal.cdf(high)
    p = below + u * (above - below)
    # inv_cdf accepts neither 0 nor 1.
    quantile = normal.inv_cdf(min(max(p, 1e-12), 1 - 1e-12))
    return min(max(quantile, low), high)
