"""Pattern-boosted quantisation (III-A, Fig. 2): ab colour and random Walsh-Hadamard patterns ->
k-means pseudo-labels.

Shapes: T frames, H x W pixels, D channels, K labels; N = T * H * W.

The frames of a clip are quantised together with one codebook, so that a label means the same thing
in every frame: with a codebook per frame only 23 % of the pixels kept their label along optical
flow, with a joint one 68 %.

Deviations from the paper:

- A *view* is one random selection of patterns. The paper draws anew for every training pair; here a
  clip is stored with one or more views, and training draws one of them.
- Patterns come from the lowest sequencies and have half the weight of colour
  (``docs/decisions/0006``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from corrfractal.common.config import Config

from .hadamard import pattern_count, sequency, write_responses
from .kmeans import Engine, choose_engine, fit_centroids

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

COLOUR_CHANNELS = 2  # a and b of CIE Lab


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig(Config):
    """How pseudo-labels are made."""

    SETTLED: ClassVar[dict[str, Any]] = {"luminance": False, "keep_dc": False, "colour": "ab"}

    clusters: Annotated[int, Field(ge=2, le=16)] = 16
    """K, number of labels; at most 16, since label maps are stored with 4 bits a pixel."""
    n_patterns: NonNegativeInt = 6
    """Walsh-Hadamard responses drawn per view; 0 gives colour only (the paper's Fig. 8b, its
    ablation without P)."""
    pattern_weight: PositiveFloat = 0.5
    """Weight of each standardised pattern channel relative to the standardised a and b; see
    ``docs/decisions/0006``."""
    max_sequency: PositiveInt | None = 1
    """Largest row or column sequency to draw from; None, or ``basis`` - 1, draws from the complete
    basis."""
    basis: Literal[4, 8] = 4
    """Size of the Walsh-Hadamard basis."""
    fit_pixels: PositiveInt = 4096
    """Pixels of the clip on which k-means is fitted; more of them cost time and gain nothing
    (``docs/decisions/0010``)."""
    iterations: PositiveInt = 10
    """k-means iterations (``docs/decisions/0010``)."""
    kmeans: Engine | Literal["auto"] = "auto"
    """Engine of k-means (``docs/decisions/0053``). ``auto``: ``faiss`` where labels are made on the
    CPU; on a GPU ``faiss-gpu`` where that is installed, otherwise ``torch``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_sequency is not None and self.max_sequency >= self.basis:
            raise ValueError(
                f"max_sequency must be less than basis ({self.basis}), got {self.max_sequency}"
            )
        if self.n_patterns > len(self.candidates()):
            raise ValueError(
                f"n_patterns must be at most {len(self.candidates())}, the patterns up to "
                f"max_sequency {self.max_sequency}, got {self.n_patterns}"
            )
        if self.fit_pixels < self.clusters:
            raise ValueError(
                f"fit_pixels must be at least clusters ({self.clusters}), got {self.fit_pixels}"
            )

    def engine(self, device: str | None) -> Engine:
        """The engine of k-means for channels that are computed on a device, or by compiled loops
        (None)."""
        return choose_engine(device) if self.kmeans == "auto" else self.kmeans

    def candidates(self) -> list[int]:
        """Pattern ids that a view may draw, ascending."""
        highest = self.basis - 1 if self.max_sequency is None else self.max_sequency
        patterns = range(pattern_count(self.basis))
        return [pattern for pattern in patterns if sequency(pattern, self.basis) <= highest]


@dataclass(frozen=True, kw_only=True)
class View:
    """The channels of one label set: a and b of CIE Lab, then the responses of randomly selected
    Walsh-Hadamard patterns, by ascending id."""

    selection: tuple[int, ...] = ()
    basis: int = 4

    @property
    def channels(self) -> int:
        """Number of channels, D."""
        return COLOUR_CHANNELS + len(self.selection)


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
        """Plain values, six significant digits; format: ``docs/reference/format.md``."""
        return {
            # Fixed since version 0.1.0, which could drop an axis or use patterns of the luminance.
            # Readers of the format, and the bytes of existing shards, rely on both.
            "colour": ["a", "b"],
            "selection": list(self.view.selection),
            "basis": self.view.basis,
            "luminance": False,
            "mean": _rounded(self.mean),
            "scale": _rounded(self.scale),
            "centroids": [_rounded(centroid) for centroid in self.centroids],
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
        config: how to quantise; None uses the defaults.
        seed: draws the patterns, the pixels to fit on and the first centroids. Same seed, same
            labels, whatever the number of threads.
        codebook: a global one, made by ``fit_codebook``; None fits one to this clip.
        device: compute with PyTorch on this device (``"cuda"``, ``"cpu"``) instead of compiled
            loops; see ``quantization_torch``.

    Returns:
        labels, uint8 (T, H, W) in 0 .. K-1; and the codebook that made them.

    Raises:
        ValueError: ``frames`` has the wrong shape or dtype, or no pixel.
        CallError: the engine of k-means is not installed.
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
    per clip.

    Raises:
        ValueError: a clip has the wrong shape or dtype, or no pixel.
    """
    for clip in clips:
        _check(clip)
    rng = np.random.default_rng(seed)
    view = _draw_view(config, rng)
    channels = np.concatenate([clip_channels(clip, view) for clip in clips], axis=1)
    return _fit_codebook(channels, view, config, rng)


def clip_channels(frames: U8, view: View) -> F32:
    """The channels of a view: a and b of CIE Lab (D65), then responses, float32 (D, T * H * W)."""
    from .loops import lab_ab  # imported late: mask propagation runs without the compiler

    T, H, W, _ = frames.shape
    channels = np.empty((view.channels, T, H, W), dtype=np.float32)
    ab = np.empty((COLOUR_CHANNELS, H * W), dtype=np.float32)
    for t, frame in enumerate(frames):
        lab_ab(np.ascontiguousarray(frame).reshape(-1, 3), ab)
        channels[:COLOUR_CHANNELS, t] = ab.reshape(COLOUR_CHANNELS, H, W)
        if view.selection:
            write_responses(frame, view.selection, view.basis, channels[COLOUR_CHANNELS:, t])
    return channels.reshape(view.channels, -1)


def _check(frames: U8) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.size == 0:
        raise ValueError(
            f"frames must be uint8 (T, H, W, 3), not empty, got {frames.dtype} {frames.shape}"
        )


def _draw_view(config: QuantizationConfig, rng: np.random.Generator) -> View:
    drawn = rng.choice(config.candidates(), config.n_patterns, replace=False)
    return View(selection=tuple(sorted(drawn.tolist())), basis=config.basis)


def _fit_codebook(
    channels: F32, view: View, config: QuantizationConfig, rng: np.random.Generator
) -> Codebook:
    """Standardise each channel over all pixels, weight the patterns, and fit k-means on a
    sub-sample."""
    from .loops import moments  # imported late: mask propagation runs without the compiler

    measured = np.empty((len(channels), 2))
    moments(channels, measured)
    mean, deviation = measured.astype(np.float32).T

    # A constant channel has scale 0: standardised, its rounding noise would decide the labels.
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0).astype(np.float32)
    scale[COLOUR_CHANNELS:] *= config.pattern_weight

    pixels = rng.integers(channels.shape[1], size=config.fit_pixels)
    points = np.ascontiguousarray(((channels[:, pixels] - mean[:, None]) * scale[:, None]).T)
    centroids = fit_centroids(
        points, config.clusters, config.iterations, rng, config.engine(device=None)
    )
    return Codebook(view=view, mean=mean, scale=scale, centroids=centroids)


def assign(channels: F32, mean: F32, scale: F32, centroids: F32) -> U8:
    """Nearest centroid of every pixel, uint8 (N,); the lowest label wins a tie.

    argmin |x - c|^2 = argmin |c|^2 - 2 x.c, and standardisation folds into the centroids.
    """
    from .loops import nearest  # imported late: mask propagation runs without the compiler

    weights = -2 * centroids * scale
    offsets = (centroids**2).sum(axis=1) - weights @ mean

    # ``nearest`` reads four channels and two centroids at a time. Channels of zeros change no
    # score, and a centroid at infinite distance is never chosen.
    missing = -len(channels) % 4
    if missing:
        channels = np.pad(channels, ((0, missing), (0, 0)))
        weights = np.pad(weights, ((0, 0), (0, missing)))
    if len(centroids) % 2:
        weights = np.pad(weights, ((0, 1), (0, 0)))
        offsets = np.append(offsets, np.inf)

    labels = np.empty(channels.shape[1], dtype=np.uint8)
    nearest(channels, weights.astype(np.float32), offsets.astype(np.float32), labels)
    return labels


def _rounded(values: F32) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]
