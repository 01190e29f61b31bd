"""Prediction from memory frames (III-E2, IV-A): what ``tracker.Tracker`` and
``tracker.LabelTracker`` share.

Memory frames are 0, 5, t-1, t-3 and t-5, as far as they exist, and the latest annotated ones. Each
is stored as its embedding at every density, computed once, and its labels; frames that no later
step needs are dropped.

Memory use is bounded:

- It is independent of the length of the video.
- With many objects, label maps at full resolution are computed a few at a time (``CHUNK_BYTES``).
  Where one map per object would exceed ``GROUP_BYTES`` on the R grid, the labels pass through the
  affinities in groups: affinities depend on embeddings alone, so the result is the same.
- Frames above ``max_pixels``, or the model's ``test_pixels``, are embedded smaller; only their
  labels are resized to full size.

Shapes: N memory frames, C embedding channels, K labels (channels); H x W the frame, h x w a reduced
grid; f and q as in ``correspondence``. The batch is one video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from corrfractal.common.errors import MaskError
from corrfractal.video import resize_area

from .attention import Similarity
from .certainty import LEVELS, certainty_of
from .correspondence import (
    References,
    grid,
    refine,
    resize_embedding,
    resize_labels,
    to_full,
)
from .motion import centroids_of_ids, centroids_of_maps, window_shifts
from .tracker_config import TrackerConfig, single_density, working_size

if TYPE_CHECKING:
    from .model import CorrFractal

U8 = npt.NDArray[np.uint8]

GROUP_BYTES = 64 << 20  # label maps of one group on the R grid: 156 objects of a 480p frame
# Label maps at full resolution that exist at once: 40 objects of a 480p frame
CHUNK_BYTES = 64 << 20

TINY = 1e-30  # for sums that are 0: windows reach beyond the image, and its zeros count


@dataclass
class MemoryFrame:
    """A memory frame: f (1, C, h, w) at every density, and its labels: hard, ``ids`` uint8 (H, W),
    or soft, q (1, K, h, w) at every density. For hard labels q is a cache. ``centroids`` are those
    of its channels, see ``motion``. ``weights`` (1, 1, h, w) at every density are those of its
    labels, see ``certainty``; none: all are 1."""

    f: list[Tensor]
    ids: Tensor | None
    centroids: Tensor
    q: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class EmbeddedFrame:
    """A frame as it is matched: f (1, C, h, w) at every density, and on the R grid. ``full`` is at
    the frame's working size; without channels unless Chain_H reads them."""

    f: list[Tensor]
    refined: Tensor
    full: Tensor


class Propagator:
    """What both trackers share: embed a frame, predict its labels from the memory, remember it."""

    _has_background = True
    """Whether channel 0 is what no object covers."""

    def __init__(self, model: CorrFractal, first_frame: U8, config: TrackerConfig | None) -> None:
        self.config = config or TrackerConfig()
        self._model = model.eval()
        self._device = next(model.parameters()).device

        self._correspondence = self.config.applied_to(model.config.correspondence)
        similarity = self._correspondence.similarity
        self._weighs_labels = self._has_background and self._correspondence.weigh_by_certainty
        self._has_patches = similarity.colour_temperature is not None
        # A chain carries embeddings, which must not be normalised; a single affinity only labels.
        carries = self._correspondence.multi_density or self._correspondence.full_radius > 0
        self._prepare: Similarity | None = None
        if not carries:
            self._prepare = similarity
            self._correspondence = replace(self._correspondence, similarity=similarity.of_prepared)

        height, width = first_frame.shape[:2]
        self._size = (height, width)
        self._working = working_size(height, width, self.config, self._correspondence)
        self._densities = self.config.densities
        if not self._correspondence.multi_density:
            self._densities = (single_density(*self._working, self._correspondence),)
        whole = torch.empty(self._working, device="meta")
        self._grids = [grid(whole, density) for density in self._densities]
        self._R = grid(whole, self._correspondence.refinement_density)
        self._embedder = self._model.embedder()
        self._memory: dict[int, MemoryFrame] = {}
        self._annotated: list[int] = []
        self._t = 0
        # One entry for each channel: the object id in masks; background is channel 0.
        self._ids = np.zeros(1, dtype=np.uint8)
        self._centroids = torch.empty(0, 2, dtype=torch.float64, device=self._device)
        # Of the labels of the latest frame, uint8 (1, 1, h, w). None: they are all certain.
        self._certainty: Tensor | None = None

    def _predict(self, frame: U8) -> list[Tensor]:
        """Predict the labels of the next frame: ``_parts`` holds f and q on the R grid, one pair
        for each group of channels. With weights q is not normalised: where cells are up-sampled,
        certain ones count more. Returns the frame's pyramid, for the memory."""
        self._t += 1
        embedded = self._embed(frame)
        self._parts = [
            refine(self._references(group), embedded.f, embedded.refined, self._correspondence)
            for group in self._groups()
        ]
        if self._weighs_labels:
            self._certainty = certainty_of([q for _, q in self._parts])
        self._latest = embedded.full
        return embedded.f

    def _embed(self, frame: U8) -> EmbeddedFrame:
        """Embed uint8 (H, W, 3) at the working size."""
        image = np.ascontiguousarray(resize_area(frame, *self._working))
        images = torch.from_numpy(image).to(self._device).permute(2, 0, 1)[None]
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bf16):
            # Only Chain_H reads the embedding at full resolution; otherwise its size is enough.
            if self._correspondence.full_radius:
                full = self._model.embed_to_match(images)
                maps = [resize_embedding(full, size) for size in (*self._grids, self._R)]
            else:
                sizes = list(self._grids)
                if self._correspondence.multi_density:
                    sizes.append(self._R)
                maps = self._embedder.on_grids(images, sizes)
                full = maps[0].new_empty(1, 0, *self._working)
        if self._prepare is not None:
            # ``matching`` reads the channels of a pixel side by side.
            layout = torch.channels_last
            maps = [self._prepare.prepare(f).contiguous(memory_format=layout) for f in maps]
        return EmbeddedFrame(f=maps[: len(self._grids)], refined=maps[-1], full=full)

    def _groups(self) -> list[slice]:
        """Channels that pass through the affinities together."""
        height, width = self._grids[-1]
        if self._correspondence.multi_density:
            height, width = max(self._grids[-1], self._R)
        size = max(1, GROUP_BYTES // (4 * height * width))
        count = len(self._ids)
        return [slice(first, min(first + size, count)) for first in range(0, count, size)]

    def _references(self, group: slice) -> Iterator[References]:
        """The memory frames of this step, joined per density, one density at a time."""
        recent = {self._t - back for back in self.config.short_term if back <= self._t}
        lasting = {index for index in self._lasting() if index < self._t}
        frames = [self._memory[index] for index in sorted(recent | lasting)]
        then = [frame.centroids for frame in frames]
        for d, size in enumerate(self._grids):
            # Joined along the batch, which keeps the order of dimensions in memory.
            f = torch.cat([frame.f[d].float() for frame in frames])[None]
            q = torch.stack([self._labels(frame, d, group) for frame in frames], dim=1)
            weight = None
            if self._weighs_labels:
                certain = q.new_ones(1, 1, *size)
                weights = [frame.weights[d] if frame.weights else certain for frame in frames]
                weight = torch.stack(weights, dim=1)
            shifts = None
            if self._correspondence.follow_motion:
                shifts = window_shifts(then, self._centroids, size)
            yield References(f, q, shifts, self._elsewhere(group, q), weight)

    def _elsewhere(self, group: slice, q: Tensor) -> Tensor:
        """Labels of a pixel without any object, (channels of the group,)."""
        labels = q.new_zeros(q.shape[2])
        if group.start == 0 and self._has_background:
            labels[0] = 1
        return labels

    def _labels(self, frame: MemoryFrame, d: int, group: slice) -> Tensor:
        """q (1, channels of the group, h, w) of a memory frame at density number ``d``."""
        count = len(self._ids)
        if frame.ids is None:
            # Objects that an annotation brought later are absent from earlier soft labels.
            missing = count - frame.q[d].shape[1]
            return torch.nn.functional.pad(frame.q[d], (0, 0, 0, 0, 0, missing))[:, group]
        if group != slice(0, count):
            return self._shares(frame.ids, _size(frame.f[d]), group)

        # All channels in one group fit into memory: keep them until an object is added.
        if len(frame.q) <= d or frame.q[d].shape[1] != count:
            frame.q = [self._shares(frame.ids, _size(f), group) for f in frame.f]
        return frame.q[d]

    def _shares(self, ids: Tensor, size: tuple[int, int], group: slice) -> Tensor:
        """Hard labels uint8 (H, W) -> shares of each channel at a density, (1, channels, h, w)."""
        object_ids = torch.from_numpy(self._ids[group]).to(self._device)
        shares = []
        for chunk in object_ids.split(self._channels_per_chunk()):
            one_hot = (ids == chunk[:, None, None]).float()[None]
            shares.append(resize_labels(one_hot, size))
        return torch.cat(shares, dim=1)

    def _channels_per_chunk(self) -> int:
        """Channels at full resolution that may exist at once."""
        return max(1, CHUNK_BYTES // (4 * self._size[0] * self._size[1]))

    def _full(self, f: Tensor, q: Tensor) -> Tensor:
        """Labels of the latest step at full size: (1, K, h, w) -> (K, H, W)."""
        return resize_labels(to_full(f, q, self._latest, self._correspondence), self._size)[0]

    def _probability(self, f: Tensor, q: Tensor) -> Tensor:
        """``_full``, normalised."""
        labels = self._full(f, q)
        if not self._weighs_labels:
            return labels
        return labels / self._full(f, self._total()).clamp_min(TINY)

    def _total(self) -> Tensor:
        """Sum of the weighted labels of the latest step on the R grid, (1, 1, h, w)."""
        return torch.stack([q.sum(dim=1) for _, q in self._parts]).sum(dim=0)[:, None]

    def _chunks(self) -> Iterator[Tensor]:
        """Labels of the latest step at full size, (channels of the chunk, H, W)."""
        for f, q in self._parts:
            for chunk in q.split(self._channels_per_chunk(), dim=1):
                yield self._full(f, chunk)

    def _soft_labels(self) -> Tensor:
        """Labels of the latest step on the R grid, (1, K, h, w)."""
        q = torch.cat([q for _, q in self._parts], dim=1)
        return q / self._total().clamp_min(TINY) if self._weighs_labels else q

    def _remember(
        self, targets: list[Tensor], ids: Tensor | None = None, q: Tensor | None = None
    ) -> None:
        """Store this frame's pyramid and its labels, hard or soft, with ``_certainty``, and drop
        frames that no later step needs."""
        # Lab patches need float32: see ``CorrFractal.embed_to_match``.
        halve = self.config.precision == "bf16" and not self._has_patches
        stored = [f.bfloat16() for f in targets] if halve else targets
        soft = [] if q is None else [resize_labels(q, _size(f)) for f in targets]
        weights = []
        if self._certainty is not None:
            shares = self._certainty.float() / LEVELS
            weights = [resize_labels(shares, _size(f)) for f in targets]
        self._locate(ids, q)
        self._memory[self._t] = MemoryFrame(
            f=stored, ids=ids, centroids=self._centroids, q=soft, weights=weights
        )

        oldest = self._t + 1 - max(self.config.short_term, default=0)
        needed = self._lasting()
        for index in list(self._memory):
            if index < oldest and index not in needed:
                del self._memory[index]

    def _locate(self, ids: Tensor | None = None, q: Tensor | None = None) -> None:
        """Update the centroids by this frame's labels."""
        first = 1 if self._has_background else 0
        if ids is not None:
            channels = torch.from_numpy(self._ids[first:]).long().to(ids.device)
            self._centroids = centroids_of_ids(ids, channels, self._centroids)
        elif q is not None:
            self._centroids = centroids_of_maps(q[:, first:], self._centroids)

    def _lasting(self) -> set[int]:
        """Indices of frames that stay in memory whatever their distance."""
        return {*self.config.long_term, *self._annotated}

    def _check_frame(self, frame: U8) -> None:
        expected = (*self._size, 3)
        if frame.dtype != np.uint8 or frame.shape != expected:
            raise MaskError(
                f"frames must be uint8 {expected}, like the first; got {frame.dtype} {frame.shape}"
            )


def _size(f: Tensor) -> tuple[int, int]:
    return f.shape[-2], f.shape[-1]
