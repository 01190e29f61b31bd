"""Samples -> batches: read, decode, crop, flip. Knows no order and keeps no state of the run, so
that any number of processes may do it.

Every random choice about a sample (view, target frame, crop, flip, dropped channels) comes from a
counter-based generator keyed by the seed and the sample's position in the run
(``training.data.order``). Clips are read by (shard, offset, length): one read, without scanning the
tar.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from corrfractal.common.errors import IntegrityError
from corrfractal.files import storage
from corrfractal.shards.clip import Clip, decode_clip, read_members
from training.config import REFERENCES, TrainingConfig

from .cache import ShardFiles
from .order import SAMPLE, rng
from .samples import Sample, Shard

U8 = npt.NDArray[np.uint8]

FETCHING_THREADS = 4


@dataclass(frozen=True)
class Example:
    """One training sample: references nearest first, then the target.

    Attributes:
        frames: uint8 (N + 1, 3, h, w).
        labels: uint8 (N + 1, h, w).
        keep: float32 (3,), 0 for dropped colour channels.
        key: of the clip.
    """

    frames: Tensor
    labels: Tensor
    keep: Tensor
    key: str


@dataclass(frozen=True)
class Batch:
    """Examples of one step and worker.

    Attributes:
        frames: uint8 (B, N + 1, 3, h, w).
        labels: uint8 (B, N + 1, h, w).
        keep: float32 (B, 3).
        keys: of the clips.
    """

    frames: Tensor
    labels: Tensor
    keep: Tensor
    keys: tuple[str, ...]

    def parts(self, count: int) -> list[Batch]:
        """The batch divided into ``count`` equal parts."""
        size = len(self.keys) // count
        parts = []
        for k in range(count):
            cut = slice(k * size, (k + 1) * size)
            parts.append(Batch(self.frames[cut], self.labels[cut], self.keep[cut], self.keys[cut]))
        return parts

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU are asynchronous."""
        return Batch(
            self.frames.pin_memory(), self.labels.pin_memory(), self.keep.pin_memory(), self.keys
        )

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device. From page-locked memory the copy is only started: work that
        is queued on the device's current stream after this call finds it complete."""
        return Batch(
            self.frames.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.keep.to(device, non_blocking=True),
            self.keys,
        )


@dataclass(frozen=True)
class PackedBatch:
    """A batch in one piece of memory, for the way between processes: each tensor that PyTorch hands
    on costs the receiver a file descriptor and half a millisecond.

    Attributes:
        data: uint8 (bytes,): ``keep``, ``frames`` and ``labels`` of the batch, in this order. The
            channels of a pixel are neighbours, as in a batch that was not packed: on another layout
            convolutions may sum in another order.
        shape: of ``labels``.
        keys: of the batch.
    """

    data: Tensor
    shape: tuple[int, ...]
    keys: tuple[str, ...]

    @classmethod
    def pack(cls, batch: Batch) -> PackedBatch:
        """Copy a batch."""
        pixels = batch.frames.permute(0, 1, 3, 4, 2)
        tensors = (batch.keep.view(torch.uint8), pixels, batch.labels)
        data = torch.cat([tensor.flatten() for tensor in tensors])
        return cls(data, tuple(batch.labels.shape), batch.keys)

    def unpack(self) -> Batch:
        """The batch, whose tensors are views of ``data``."""
        B, N, H, W = self.shape
        keep, pixels, labels = self.data.split([B * 3 * 4, B * N * H * W * 3, B * N * H * W])
        return Batch(
            frames=pixels.view(B, N, H, W, 3).permute(0, 1, 4, 2, 3),
            labels=labels.view(self.shape),
            keep=keep.view(torch.float32).view(B, 3),
            keys=self.keys,
        )

    def pin_memory(self) -> PackedBatch:
        """The same in page-locked memory; called by PyTorch's ``DataLoader``."""
        return PackedBatch(self.data.pin_memory(), self.shape, self.keys)


@dataclass(frozen=True)
class BatchPlan:
    """What a batch is made of.

    Attributes:
        positions: of its samples in the run.
        samples: the clips at these positions.
        fetch: shards to start fetching and checking, in this order: those that the samples' slots
            need now and next.
    """

    positions: tuple[int, ...]
    samples: tuple[Sample, ...]
    fetch: tuple[Shard, ...]


class BatchReader:
    """Reads and decodes planned batches.

    Args:
        shards: folder of the shards, local or a URI.
        config: of the run.
        files: of the shards.
    """

    def __init__(self, shards: str | Path, config: TrainingConfig, files: ShardFiles) -> None:
        self._shards = shards
        self._config = config
        self._files = files

    def for_processes(self, context: BaseContext) -> BatchReader:
        """A reader for processes of ``context``, which check every shard once among them."""
        return BatchReader(self._shards, self._config, self._files.for_processes(context))

    def batch(self, plan: BatchPlan) -> Batch:
        """The batch of a plan.

        Raises:
            IntegrityError: a shard or a clip is damaged.
            CorrFractalError, OSError: as of ``ShardFiles.read``.
        """
        self._fetch_ahead(plan.fetch)
        examples = [
            self.example(position, sample)
            for position, sample in zip(plan.positions, plan.samples, strict=True)
        ]
        return Batch(
            frames=torch.stack([example.frames for example in examples]),
            labels=torch.stack([example.labels for example in examples]),
            keep=torch.stack([example.keep for example in examples]),
            keys=tuple(example.key for example in examples),
        )

    def example(self, position: int, sample: Sample) -> Example:
        """The sample at a position: a pure function of both."""
        draw = rng(self._config.seed, SAMPLE, position)
        view = int(draw.integers(sample.views))
        target = int(draw.integers(self._config.clip_frames_needed - 1, sample.frames))
        indices = [
            target + reference if reference < 0 else reference
            for reference in REFERENCES[self._config.references]
        ]
        clip = self._read(sample, (*indices, target), view)
        frames, labels = crop_and_flip(clip, self._config.crop, draw)
        return Example(
            frames=torch.from_numpy(frames).permute(0, 3, 1, 2),
            labels=torch.from_numpy(labels),
            keep=_channels_to_keep(self._config, draw),
            key=clip.key,
        )

    def _read(self, sample: Sample, indices: tuple[int, ...], view: int) -> Clip:
        block = self._files.read(sample.shard, sample.offset, sample.length)
        try:
            return decode_clip(read_members(block), frames=indices, views=(view,))
        except IntegrityError as exc:
            raise IntegrityError(
                f"{storage.join(self._shards, sample.shard.name)}, clip at byte {sample.offset}: "
                f"{exc}. Run `corrfractal verify {self._shards}`, then precompute again"
            ) from exc

    def _fetch_ahead(self, shards: tuple[Shard, ...]) -> None:
        for part in range(min(FETCHING_THREADS, len(shards))):
            threading.Thread(
                target=self._fetch,
                args=(shards[part::FETCHING_THREADS],),
                name="shards",
                daemon=True,
            ).start()

    def _fetch(self, shards: tuple[Shard, ...]) -> None:
        for shard in shards:
            try:
                self._files.ready(shard)
            except Exception:  # raised again when the shard is read
                return


def crop_and_flip(clip: Clip, crop: int | None, draw: np.random.Generator) -> tuple[U8, U8]:
    """The same square and the same mirroring for all frames of a sample.

    Returns:
        Frames (N + 1, h, w, 3) and labels (N + 1, h, w) of the clip's only view, contiguous.
    """
    frames = clip.frames
    labels = clip.labels[0]
    _, H, W, _ = frames.shape

    # Numbers are drawn even without a crop: the flip must not depend on that.
    side = min(H, W) if crop is None else min(crop, H, W)
    y = int(draw.integers(H - side + 1))
    x = int(draw.integers(W - side + 1))
    if crop is not None:
        frames = frames[:, y : y + side, x : x + side]
        labels = labels[:, y : y + side, x : x + side]

    if draw.random() < 0.5:
        frames = frames[:, :, ::-1]
        labels = labels[:, :, ::-1]
    return np.ascontiguousarray(frames), np.ascontiguousarray(labels)


def _channels_to_keep(config: TrainingConfig, draw: np.random.Generator) -> Tensor:
    """The input bottleneck of a sample: which of R, G, B (one or two are dropped) or of L, a, b
    (one of a and b is dropped) the network sees.

    Returns:
        float32 (3,) of 0 and 1.
    """
    keep = np.ones(3, dtype=np.float32)
    # All numbers are drawn in any case, so that samples differ in nothing else.
    order = draw.permutation(3)
    count = int(draw.integers(1, 3))
    dropped = draw.random() < config.channel_dropout
    if dropped and config.network.bottleneck == "rgb":
        keep[order[:count]] = 0
    elif dropped and config.network.bottleneck == "lab":
        keep[count] = 0
    return torch.from_numpy(keep)
