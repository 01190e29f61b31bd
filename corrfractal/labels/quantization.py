"""Pattern-boosted quantisation (III-A, Fig. 2): ab colour + random Walsh-Hadamard patterns ->
k-means pseudo-labels.

The frames of a clip are quantised together with one codebook, so that a label means the same thing
in every frame; with a codebook per frame only 23 % of the pixels kept their label along optical
flow, with a joint one 68 %.

A *view* is one random selection of patterns. Where the paper draws anew for every training pair, a
clip is stored with one or more views and training draws one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import faiss
import numpy as np
import numpy.typing as npt

from corrfractal.common.config import Config

from .hadamard import pattern_count, sequency, write_responses

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig(Config):
    """How pseudo-labels are made."""

    clusters: int = 16
    """K, number of labels; at most 16, since label maps are stored with 4 bits a pixel."""
    n_patterns: int = 6
    """Walsh-Hadamard responses drawn per view; 0 gives colour only (the paper's Fig. 8b, its
    ablation without P)."""
    pattern_weight: float = 0.5
    """Weight of each standardised pattern channel beside the standardised a and b; see
    ``docs/decisions/0006``."""
    max_sequency: int | None = 1
    """Largest row or column sequency to draw from; None, or ``basis`` - 1, draws from the whole
    basis."""
    basis: int = 4
    """Size of the Walsh-Hadamard basis, 4 or 8."""
    luminance: bool = False
    """Patterns of the luminance (Rec. 601) instead of R, G and B."""
    keep_dc: bool = False
    """Let a view draw the mean of a channel (DC) too."""
    colour: str = "ab"
    """``ab``: both; ``one``: a or b, drawn per view."""
    fit_pixels: int = 4096
    """Pixels of the clip on which k-means is fitted; more cost time and gain nothing
    (``docs/decisions/0010``)."""
    iterations: int = 10
    """k-means iterations (``docs/decisions/0010``)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.clusters <= 16:
            raise ValueError(f"clusters must lie in 2..16, got {self.clusters}")
        if self.basis not in (4, 8):
            raise ValueError(f"basis must be 4 or 8, got {self.basis}")
        if self.max_sequency is not None and not 1 <= self.max_sequency < self.basis:
            raise ValueError(
                f"max_sequency must lie in 1..{self.basis - 1}, got {self.max_sequency}"
            )
        if not 0 <= self.n_patterns <= len(self.candidates()):
            raise ValueError(
                f"n_patterns must lie in 0..{len(self.candidates())}, what max_sequency "
                f"{self.max_sequency} leaves to draw from, got {self.n_patterns}"
            )
        if self.colour not in ("ab", "one"):
            raise ValueError(f"colour must be ab or one, got {self.colour!r}")
        if not self.pattern_weight > 0:
            raise ValueError(f"pattern_weight must be positive, got {self.pattern_weight}")
        if self.fit_pixels < self.clusters or self.iterations < 1:
            raise ValueError(
                "fit_pixels must be at least clusters and iterations at least 1, got "
                f"{self.fit_pixels} and {self.iterations}"
            )

    def candidates(self) -> list[int]:
        """Pattern ids that a view may draw. All three colours of a luminance are equal: its
        patterns are those of R."""
        count = pattern_count(self.basis)
        ids = [*range(count // 3 if self.luminance else count)]
        if self.keep_dc:
            ids += [count] if self.luminance else [count, count + 1, count + 2]
        top = self.basis - 1 if self.max_sequency is None else self.max_sequency
        return [p for p in ids if sequency(p, self.basis) <= top]


@dataclass(frozen=True, kw_only=True)
class View:
    """One random selection of channels: colour axes (0: a, 1: b), then Walsh-Hadamard patterns by
    id, ascending."""

    colour: tuple[int, ...] = (0, 1)
    selection: tuple[int, ...] = ()
    basis: int = 4
    luminance: bool = False

    @property
    def channels(self) -> int:
        """Number of channels, D."""
        return len(self.colour) + len(self.selection)


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """What assigns a pixel to a label: label = nearest centroid of ``(channel - mean) * scale``.

    Attributes:
        view: which channels.
        mean, scale: float32 (D,).
        centroids: float32 (K, D).
    """

    view: View
    mean: F32
    scale: F32
    centroids: F32

    @property
    def selection(self) -> tuple[int, ...]:
        """Pattern ids of the view."""
        return self.view.selection

    def to_json(self) -> dict[str, Any]:
        """Plain values, six significant digits."""
        return {
            "colour": ["ab"[axis] for axis in self.view.colour],
            "selection": list(self.view.selection),
            "basis": self.view.basis,
            "luminance": self.view.luminance,
            "mean": _rounded(self.mean),
            "scale": _rounded(self.scale),
            "centroids": [_rounded(c) for c in self.centroids],
        }


def quantize_clip(
    frames: U8,
    config: QuantizationConfig | None = None,
    seed: int = 0,
    codebook: Codebook | None = None,
    device: str | None = None,
) -> tuple[U8, Codebook]:
    """Pseudo-labels of one clip for one view.

    Args:
        frames: uint8 (T, H, W, 3) RGB.
        config: how to quantise; None takes the defaults.
        seed: draws the patterns, the pixels to fit on and the first centroids. Same seed, same
            labels, whatever the number of threads.
        codebook: a global one, made by ``fit_codebook``; None fits one to this clip.
        device: compute with PyTorch on this device (``"cuda"``, ``"cpu"``) instead of compiled
            loops and faiss; see ``quantization_torch``.

    Returns:
        labels, uint8 (T, H, W) in 0 .. K-1; and the codebook that made them.

    Raises:
        ValueError: ``frames`` has the wrong shape or dtype, or no pixel.
    """
    _check(frames)
    config = config or QuantizationConfig()
    rng = np.random.default_rng(seed)
    view = _draw_view(config, rng) if codebook is None else codebook.view
    if device is not None:
        from .quantization_torch import quantize_on

        return quantize_on(device, frames, view, config, rng, codebook)
    channels = clip_channels(frames, view)
    if codebook is None:
        codebook = _fit_codebook(channels, view, config, rng)
    labels = assign(channels, codebook.mean, codebook.scale, codebook.centroids)
    return labels.reshape(frames.shape[:3]), codebook


def fit_codebook(clips: Sequence[U8], config: QuantizationConfig, seed: int) -> Codebook:
    """One codebook for many clips, uint8 (T, H, W, 3) each: the global alternative to a codebook
    per clip."""
    for clip in clips:
        _check(clip)
    rng = np.random.default_rng(seed)
    view = _draw_view(config, rng)
    return _fit_codebook(
        np.concatenate([clip_channels(clip, view) for clip in clips], axis=1), view, config, rng
    )


def clip_channels(frames: U8, view: View) -> F32:
    """The channels of a view: CIE Lab (D65) colour axes, then responses, float32 (D, T * H * W)."""
    from .loops import lab_ab  # late: what only propagates masks does without the compiler

    channels = np.empty((view.channels, *frames.shape[:3]), dtype=np.float32)
    both = np.empty((2, *frames.shape[1:3]), dtype=np.float32)
    for t, frame in enumerate(frames):
        lab_ab(np.ascontiguousarray(frame).reshape(-1, 3), both.reshape(2, -1))
        channels[: len(view.colour), t] = both[list(view.colour)]
        if view.selection:
            source = (
                np.repeat(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
                if view.luminance
                else frame
            )
            write_responses(source, view.selection, view.basis, channels[len(view.colour) :, t])
    return channels.reshape(len(channels), -1)


def _check(frames: U8) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.size == 0:
        raise ValueError(
            f"frames must be uint8 (T, H, W, 3), not empty, got {frames.dtype} {frames.shape}"
        )


def _draw_view(config: QuantizationConfig, rng: np.random.Generator) -> View:
    selection = tuple(
        sorted(rng.choice(config.candidates(), config.n_patterns, replace=False).tolist())
    )
    colour = (0, 1) if config.colour == "ab" else (int(rng.integers(2)),)
    return View(colour=colour, selection=selection, basis=config.basis, luminance=config.luminance)


def _fit_codebook(
    channels: F32, view: View, config: QuantizationConfig, rng: np.random.Generator
) -> Codebook:
    """Standardise each channel over all pixels, weight the patterns, and fit k-means on a
    sub-sample."""
    from .loops import moments  # late: what only propagates masks does without the compiler

    measured = np.empty((len(channels), 2))
    moments(channels, measured)
    mean, deviation = measured.astype(np.float32).T
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0).astype(np.float32)
    scale[len(view.colour) :] *= config.pattern_weight
    pixels = rng.integers(channels.shape[1], size=config.fit_pixels)
    points = np.ascontiguousarray(((channels[:, pixels] - mean[:, None]) * scale[:, None]).T)
    centroids = _fit(points, config, seed=int(rng.integers(1, 2**31 - 1)))
    return Codebook(view=view, mean=mean, scale=scale, centroids=centroids)


def assign(channels: F32, mean: F32, scale: F32, centroids: F32) -> U8:
    """Nearest centroid of every pixel, uint8 (N,); the lowest label wins a tie.

    argmin |x - c|^2 = argmin |c|^2 - 2 x.c, and standardisation folds into the centroids.
    """
    from .loops import nearest  # late: what only propagates masks does without the compiler

    weights = -2 * centroids * scale
    offsets = (centroids**2).sum(axis=1) - weights @ mean
    if short := -len(channels) % 4:
        channels, weights = (
            np.pad(channels, ((0, short), (0, 0))),
            np.pad(weights, ((0, 0), (0, short))),
        )
    if len(centroids) % 2:
        weights, offsets = np.pad(weights, ((0, 1), (0, 0))), np.append(offsets, np.inf)
    labels = np.empty(channels.shape[1], dtype=np.uint8)
    nearest(channels, weights.astype(np.float32), offsets.astype(np.float32), labels)
    return labels


def _fit(points: F32, config: QuantizationConfig, seed: int) -> F32:
    """k-means centroids, float32 (K, D).

    One thread: faiss sums in thread order, which would change the last digits. Distances without
    BLAS: for so few centroids and channels it takes twice as long.
    """
    threads, blas_from = faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold
    faiss.omp_set_num_threads(1)
    faiss.cvar.distance_compute_blas_threshold = len(points) + 1
    try:
        kmeans = faiss.Kmeans(
            points.shape[1],
            config.clusters,
            niter=config.iterations,
            seed=seed,
            max_points_per_centroid=math.ceil(len(points) / config.clusters),
            min_points_per_centroid=1,
        )
        kmeans.train(points)
    finally:
        faiss.omp_set_num_threads(threads)
        faiss.cvar.distance_compute_blas_threshold = blas_from
    return np.asarray(kmeans.centroids, dtype=np.float32).reshape(config.clusters, -1)


def _rounded(values: F32) -> list[float]:
    return [float(f"{v:.6g}") for v in values.tolist()]
