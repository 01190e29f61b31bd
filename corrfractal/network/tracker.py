"""Label propagation through a video (method: the correspondence module alone, with memory frames).

Memory frames are 0, 5, t-1, t-3 and t-5, as far as they exist, and the latest annotated ones. Each
is kept as its embedding at every density, made once, and its labels; frames that no later step can
ask for are dropped. Predicted labels are fed back as hard decisions by default.

What bounds the memory: of the video's length nothing depends on it. Of the number of objects, label
maps at full resolution are made a few at a time, and where one map per object would exceed
``GROUP_BYTES`` on the R grid, the labels go through the affinities in groups: affinities depend on
embeddings alone, so the result is the same. Of the frame's size, frames above ``max_pixels`` are
embedded smaller, and only their labels come back at full size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from corrfractal.common.config import Config
from corrfractal.common.errors import MaskError
from corrfractal.video import resize_area

from .correspondence import References, grid, propagate, pyramid, refine, resize_labels, to_full

if TYPE_CHECKING:
    from .model import CorrFractal

__all__ = ["FAST", "Tracker", "TrackerConfig", "propagate", "working_size"]

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

GROUP_BYTES = 64 << 20  # label maps of one group on the R grid: 156 objects of a 480p frame
# Label maps at full resolution that exist at once: 40 objects of a 480p frame
CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class TrackerConfig(Config):
    """How labels are propagated at test time."""

    densities: tuple[float, ...] = (18.0, 12.0, 6.0, 4.0, 3.0, 2.0)
    """Densities, coarse to fine; the paper's six. A network without multi-density correspondence
    has its own one."""
    refinement_density: float | None = None
    """Density of the R grid; None takes the network's own (1/2). A larger number is faster and
    coarser."""
    long_term: tuple[int, ...] = (0, 5)
    """Frames that stay in memory for good, by index."""
    short_term: tuple[int, ...] = (1, 3, 5)
    """Frames in memory by their distance from the target."""
    annotated: int = 2
    """Latest frames with a given mask, after the first, that stay in memory whatever their
    distance."""
    soft: bool = False
    """Feed back soft labels instead of hard decisions."""
    resolution: str = "full"
    """``full``, or ``half``: frames are embedded at half their height and width, a quarter of the
    work."""
    max_pixels: int = 1920 * 1080
    """Larger frames are embedded at a size of at most so many pixels, which bounds memory."""
    precision: str = "fp32"
    """Of the backbone and of embeddings in memory: ``fp32`` or ``bf16``. Affinities, and Lab
    patches, are float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            not self.densities
            or min(self.densities) < 1
            or list(self.densities) != sorted(self.densities, reverse=True)
        ):
            raise ValueError(f"densities must descend to no less than 1, got {self.densities}")
        if (
            0 not in self.long_term
            or min((*self.long_term, *self.short_term)) < 0
            or 0 in self.short_term
        ):
            raise ValueError(
                "long_term must hold frame 0, and distances in short_term must be at least 1"
            )
        if self.resolution not in ("full", "half"):
            raise ValueError(f"resolution must be full or half, got {self.resolution!r}")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
        if self.annotated < 0 or self.max_pixels < 1:
            raise ValueError("annotated must be 0 or more and max_pixels positive")


FAST = TrackerConfig(densities=(12.0, 6.0, 4.0), refinement_density=3.0)
"""Three densities and an R grid of 1/3: several times faster on a CPU, coarser at boundaries."""


def working_size(height: int, width: int, config: TrackerConfig) -> tuple[int, int]:
    """(H, W) at which frames of a size are embedded."""
    shrink = max(
        2.0 if config.resolution == "half" else 1.0, math.sqrt(height * width / config.max_pixels)
    )
    return max(1, round(height / shrink)), max(1, round(width / shrink))


@dataclass
class _MemoryFrame:
    """A remembered frame: f (1, C, h, w) at every density, and hard labels or q (1, K, h, w) at
    every density."""

    f: list[Tensor]
    ids: Tensor | None
    q: list[Tensor] = field(default_factory=list)


class Tracker:
    """Follows the objects of a first mask, frame by frame; memory is bounded whatever the video's
    length."""

    def __init__(
        self,
        model: CorrFractal,
        first_frame: U8,
        first_mask: U8,
        config: TrackerConfig | None = None,
    ) -> None:
        self.config = config or TrackerConfig()
        self._model = model.eval()
        self._device = next(model.parameters()).device
        self._correspondence = model.config.correspondence.at_test_time
        if self.config.refinement_density is not None:
            self._correspondence = replace(
                self._correspondence, refinement_density=self.config.refinement_density
            )
        self._densities = self.config.densities
        if not self._correspondence.multi_density:
            self._densities = self._correspondence.density_means[:1]
        height, width = first_frame.shape[:2]
        self._size = (height, width)
        self._working = working_size(height, width, self.config)
        self._memory: dict[int, _MemoryFrame] = {}
        self._annotated: list[int] = []
        self._t = 0
        self._ids = np.zeros(1, dtype=np.uint8)
        self._check(first_frame, first_mask)
        self._learn(first_mask)
        with torch.inference_mode():
            targets = pyramid(self._embed(first_frame), self._densities)
            self._remember(targets, ids=torch.tensor(first_mask, device=self._device))

    @classmethod
    def of_labels(
        cls, model: CorrFractal, first_frame: U8, labels: F32, config: TrackerConfig | None = None
    ) -> Tracker:
        """Follow soft labels instead of objects, such as the heat maps of key points: go on with
        ``step_labels``.

        Args:
            model: the network.
            first_frame: uint8 (H, W, 3) RGB.
            labels: float32 (K, H, W) of the first frame, K up to 256; each channel is carried for
                itself.
            config: as for masks; what is carried is always fed back soft.

        Raises:
            MaskError: frame or labels have the wrong size or type.
        """
        height, width = first_frame.shape[:2]
        if labels.ndim != 3 or labels.shape[1:] != (height, width) or labels.dtype != np.float32:
            wanted = f"float32 (K, {height}, {width})"
            raise MaskError(
                f"labels must be {wanted}, like their frame; got {labels.dtype} {labels.shape}"
            )
        tracker = cls(model, first_frame, np.zeros((height, width), dtype=np.uint8), config)
        tracker._ids = np.arange(len(labels), dtype=np.uint8)
        first = tracker._memory[0]
        q = torch.tensor(labels, device=tracker._device)[None]
        tracker._memory[0] = _MemoryFrame(
            f=first.f, ids=None, q=[resize_labels(q, _size(f)) for f in first.f]
        )
        return tracker

    def step(self, frame: U8, mask: U8 | None = None) -> U8:
        """Labels of the next frame.

        Args:
            frame: uint8 (H, W, 3) RGB, of the first frame's size.
            mask: an annotation of this frame where there is one: its objects, old or new, are
                exactly where it shows them, the others where they are predicted; the frame stays in
                memory.

        Returns:
            uint8 (H, W) object ids, as in the masks given.

        Raises:
            MaskError: frame or mask have the wrong size or type.
        """
        self._check(frame, mask)
        with torch.inference_mode():
            targets = self._predict(frame)
            labels = self._ids[self._decide()]
            if mask is not None:
                labels = np.where(np.isin(labels, mask[mask > 0]), np.uint8(0), labels)
                labels = np.where(mask > 0, mask, labels)
                self._learn(mask)
                self._keep_annotated()
            if self.config.soft and mask is None:
                self._remember(targets, q=torch.cat([q for _, q in self._parts], dim=1))
            else:
                self._remember(targets, ids=torch.tensor(labels, device=self._device))
        return labels

    def step_labels(self, frame: U8) -> F32:
        """Labels of the next frame, float32 (K, H, W), fed back as they are.

        Raises:
            MaskError: the frame has the wrong size or type.
        """
        self._check(frame, None)
        with torch.inference_mode():
            targets = self._predict(frame)
            self._remember(targets, q=torch.cat([q for _, q in self._parts], dim=1))
            return np.concatenate([q.float().cpu().numpy() for q in self._chunks()])

    def probability(self, object_id: int) -> F32:
        """How likely every pixel of the latest frame belongs to an object, before annotations;
        float32 (H, W).

        Raises:
            ValueError: no such object, or no step was taken yet.
        """
        found = np.flatnonzero(self._ids == object_id)
        if not found.size or self._t == 0:
            raise ValueError(f"object {object_id} has no probability yet")
        first = 0
        for f, q in self._parts:
            if found[0] < first + q.shape[1]:
                with torch.inference_mode():
                    channel = q[:, found[0] - first, None]
                    return self._full(f, channel)[0].float().cpu().numpy()
            first += q.shape[1]
        # An object that this frame's annotation brought
        return np.zeros(self._size, dtype=np.float32)

    def restore(self, frame: U8, mask: U8, *, resume_at: int, annotated: bool = False) -> None:
        """Count the next frame, whose labels are known from an earlier run, as ``step`` does,
        without predicting.

        Args:
            frame, mask: the frame, and what ``step`` returned for it.
            resume_at: index of the first frame that ``step`` is going to be called for.
            annotated: whether ``step`` was given a mask for it.
        """
        self._check(frame, mask)
        self._t += 1
        self._learn(mask)
        if annotated:
            self._keep_annotated()
        wanted = self._t >= resume_at - max(self.config.short_term, default=0)
        if wanted or annotated or self._t in self.config.long_term:
            with torch.inference_mode():
                targets = pyramid(self._embed(frame), self._densities)
                self._remember(targets, ids=torch.tensor(mask, device=self._device))

    def _predict(self, frame: U8) -> list[Tensor]:
        """Labels of the next frame into ``_parts``, f and q on the R grid by group; return the
        frame's pyramid."""
        self._t += 1
        F_t = self._embed(frame)
        targets = pyramid(F_t, self._densities)
        self._parts = [
            refine(self._references(g), targets, F_t, self._correspondence) for g in self._groups()
        ]
        self._seen = (
            F_t if self._correspondence.full_radius else F_t.new_empty(1, 0, *self._working)
        )
        return targets

    def _keep_annotated(self) -> None:
        if self.config.annotated:
            self._annotated = [*self._annotated, self._t][-self.config.annotated :]

    def _groups(self) -> list[slice]:
        """Channels that go through the affinities together."""
        height, width = grid(torch.empty(self._working, device="meta"), self._finest())
        each = max(1, GROUP_BYTES // (4 * height * width))
        return [
            slice(first, min(first + each, len(self._ids)))
            for first in range(0, len(self._ids), each)
        ]

    def _finest(self) -> float:
        if not self._correspondence.multi_density:
            return self._densities[-1]
        return min(self._densities[-1], self._correspondence.refinement_density)

    def _references(self, group: slice) -> Iterator[References]:
        """The memory frames of this step, joined per density, one density at a time."""
        t = self._t
        recent = {t - back for back in self.config.short_term if back <= t}
        wanted = sorted(
            recent.union(i for i in (*self.config.long_term, *self._annotated) if i < t)
        )
        frames = [self._memory[i] for i in wanted]
        for d in range(len(self._densities)):
            yield References(
                torch.stack([frame.f[d].float() for frame in frames], dim=1),
                torch.stack([self._labels(frame, d, group) for frame in frames], dim=1),
            )

    def _labels(self, frame: _MemoryFrame, d: int, group: slice) -> Tensor:
        """q (1, channels of the group, h, w) of a memory frame; kept with it while there is one
        group."""
        if frame.ids is None:
            missing = len(self._ids) - frame.q[d].shape[1]
            return torch.nn.functional.pad(frame.q[d], (0, 0, 0, 0, 0, missing))[:, group]
        if group != slice(0, len(self._ids)):
            return self._pool(frame.ids, _size(frame.f[d]), group)
        if len(frame.q) <= d or frame.q[d].shape[1] != len(self._ids):
            frame.q = [self._pool(frame.ids, _size(f), group) for f in frame.f]
        return frame.q[d]

    def _pool(self, ids: Tensor, size: tuple[int, int], group: slice) -> Tensor:
        """Labels uint8 (H, W) -> the shares of each channel at a density, (1, channels, h, w)."""
        wanted = torch.from_numpy(self._ids[group]).to(self._device)
        shares = [
            resize_labels((ids == some[:, None, None]).float()[None], size)
            for some in wanted.split(self._channels_per_chunk())
        ]
        return torch.cat(shares, dim=1)

    def _channels_per_chunk(self) -> int:
        """Channels at full resolution that may exist at once."""
        return max(1, CHUNK_BYTES // (4 * self._size[0] * self._size[1]))

    def _full(self, f: Tensor, q: Tensor) -> Tensor:
        """(1, K, h, w) of the latest step -> (K, H, W)."""
        return resize_labels(to_full(f, q, self._seen, self._correspondence), self._size)[0]

    def _chunks(self) -> Iterator[Tensor]:
        for f, q in self._parts:
            for some in q.split(self._channels_per_chunk(), dim=1):
                yield self._full(f, some)

    def _decide(self) -> npt.NDArray[np.int64]:
        """The most likely channel of every pixel, int64 (H, W); the first of equals."""
        best: Tensor | None = None
        first = 0
        for q in self._chunks():
            value, channel = q.max(dim=0)
            if best is None:
                best, winner = value, channel
            else:
                winner = torch.where(value > best, channel + first, winner)
                best = torch.maximum(value, best)
            first += len(q)
        return winner.cpu().numpy()

    def _remember(
        self, targets: list[Tensor], ids: Tensor | None = None, q: Tensor | None = None
    ) -> None:
        """Keep this frame's embedding and its labels, hard or soft, and forget frames that no later
        step asks for."""
        halve = (
            self.config.precision == "bf16"
            and self._correspondence.similarity.colour_temperature is None
        )
        kept = _MemoryFrame(f=[f.bfloat16() if halve else f for f in targets], ids=ids)
        if q is not None:
            kept.q = [resize_labels(q, _size(f)) for f in targets]
        self._memory[self._t] = kept
        oldest = self._t + 1 - max(self.config.short_term, default=0)
        lasting = (*self.config.long_term, *self._annotated)
        for i in [i for i in self._memory if i < oldest and i not in lasting]:
            del self._memory[i]

    def _learn(self, mask: U8) -> None:
        """Give a channel to each object that was never seen before."""
        self._ids = np.append(self._ids, np.setdiff1d(mask, self._ids))

    def _embed(self, frame: U8) -> Tensor:
        image = np.ascontiguousarray(resize_area(frame, *self._working))
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bf16):
            return self._model.embed_to_match(
                torch.from_numpy(image).to(self._device).permute(2, 0, 1)[None]
            )

    def _check(self, frame: U8, mask: U8 | None) -> None:
        if frame.dtype != np.uint8 or frame.shape != (*self._size, 3):
            raise MaskError(
                f"frames must be uint8 {(*self._size, 3)}, like the first; got {frame.dtype} "
                f"{frame.shape}"
            )
        if mask is not None and (mask.dtype != np.uint8 or mask.shape != self._size):
            raise MaskError(
                f"a mask must be uint8 {self._size}, like its frame; got {mask.dtype} {mask.shape}"
            )


def _size(f: Tensor) -> tuple[int, int]:
    return f.shape[-2], f.shape[-1]
