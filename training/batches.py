"""Shards -> batches. Order is arithmetic: what sample stands where depends on (seed, epoch, position) alone.

Positions run 0, 1, 2, ... over all epochs; step s takes positions s * G ... (s + 1) * G - 1 of the global batch G,
and worker r of W its r-th part of them. So a run stopped at any step goes on with exactly the next sample, on any
number of workers. Every random choice about a sample (view, target frame, crop, flip, dropped channels) comes from a
counter-based generator keyed by the seed and its position; nothing is drawn in sequence, nothing needs saving.

Clips are read by (shard, offset, length): one read, no index to build, no tar to scan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from corrfractal.errors import IntegrityError
from corrfractal.manifest import SampleRef
from corrfractal.sample import Clip, decode_clip, read_members

from .config import REFERENCES, TrainingConfig

U8 = npt.NDArray[np.uint8]

ORDER, SAMPLE, STEP = 0, 1, 2  # streams of randomness
AHEAD = 2  # batches prepared before they are asked for


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
    """Examples of one step and worker: frames uint8 (B, N + 1, 3, h, w), labels uint8 (B, N + 1, h, w), keep (B, 3)."""

    frames: Tensor
    labels: Tensor
    keep: Tensor
    keys: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(self.frames.to(device), self.labels.to(device), self.keep.to(device), self.keys)


def rng(seed: int, stream: int, *counter: int) -> np.random.Generator:
    """Counter-based randomness: the same arguments give the same numbers, on any machine, in any order of calls."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, stream, *counter))))


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """Permutation of ``count`` samples in an epoch."""
    return rng(seed, ORDER, epoch).permutation(count)


def positions_of(step: int, batch_size: int, rank: int, world: int) -> range:
    """Positions that a worker takes in a step."""
    share = batch_size // world
    first = step * batch_size + rank * share
    return range(first, first + share)


class Batches:
    """Batches of one worker, prepared in a thread while the network computes (JPEG and PNG decoding leave the GIL)."""

    def __init__(
        self, shards: Path, samples: Sequence[SampleRef], config: TrainingConfig, rank: int = 0, world: int = 1
    ) -> None:
        if config.batch_size % world:
            raise ValueError(f"batch_size {config.batch_size} is not a multiple of the number of workers, {world}")
        self._shards, self._samples, self._config = shards, samples, config
        self._rank, self._world = rank, world

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        examples = [self.example(p) for p in positions_of(step, self._config.batch_size, self._rank, self._world)]
        return Batch(
            frames=torch.stack([e.frames for e in examples]),
            labels=torch.stack([e.labels for e in examples]),
            keep=torch.stack([e.keep for e in examples]),
            keys=tuple(e.key for e in examples),
        )

    def iterate(self, first: int, last: int) -> Iterator[Batch]:
        """Batches of steps ``first`` .. ``last - 1``, each prepared ``AHEAD`` steps before its turn."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            pending: list[Future[Batch]] = [
                pool.submit(self.__getitem__, s) for s in range(first, min(first + AHEAD, last))
            ]
            for step in range(first, last):
                batch = pending.pop(0).result()
                if step + AHEAD < last:
                    pending.append(pool.submit(self.__getitem__, step + AHEAD))
                yield batch

    def example(self, position: int) -> Example:
        """The sample at a position: a pure function of it."""
        epoch, place = divmod(position, len(self._samples))
        ref = self._samples[epoch_order(self._config.seed, epoch, len(self._samples))[place]]
        draw = rng(self._config.seed, SAMPLE, position)
        view = int(draw.integers(ref.views))
        target = int(draw.integers(self._config.clip_frames_needed - 1, ref.frames))
        indices = (*(target + r if r < 0 else r for r in REFERENCES[self._config.references]), target)
        clip = self._read(ref, indices, view)
        frames, labels = _crop_and_flip(clip, self._config.crop, draw)
        return Example(
            frames=torch.from_numpy(frames).permute(0, 3, 1, 2),
            labels=torch.from_numpy(labels),
            keep=_channels_to_keep(self._config, draw),
            key=ref.key,
        )

    def _read(self, ref: SampleRef, indices: tuple[int, ...], view: int) -> Clip:
        path = self._shards / ref.shard
        with path.open("rb") as file:
            file.seek(ref.offset)
            block = file.read(ref.length)
        try:
            return decode_clip(read_members(block), frames=indices, views=(view,))
        except IntegrityError as exc:
            raise IntegrityError(
                f"{path}, sample {ref.key}: {exc}. Run `corrfractal verify {self._shards}`, then precompute again"
            ) from exc


def _crop_and_flip(clip: Clip, crop: int | None, draw: np.random.Generator) -> tuple[U8, U8]:
    """The same square and the same mirroring for all frames of a sample."""
    frames, labels = clip.frames, clip.labels[0]
    _, H, W, _ = frames.shape
    side = min(H, W) if crop is None else min(crop, H, W)
    y, x = int(draw.integers(H - side + 1)), int(draw.integers(W - side + 1))
    if crop is not None:
        frames, labels = frames[:, y : y + side, x : x + side], labels[:, y : y + side, x : x + side]
    if draw.random() < 0.5:
        frames, labels = frames[:, :, ::-1], labels[:, :, ::-1]
    return np.ascontiguousarray(frames), np.ascontiguousarray(labels)


def _channels_to_keep(config: TrainingConfig, draw: np.random.Generator) -> Tensor:
    """The input bottleneck of a sample: which of R, G, B (one or two are dropped) or of a, b (one) the network sees."""
    keep = np.ones(3, dtype=np.float32)
    order, count, dropped = draw.permutation(3), int(draw.integers(1, 3)), draw.random() < config.channel_dropout
    if dropped and config.network.bottleneck == "rgb":
        keep[order[:count]] = 0
    elif dropped and config.network.bottleneck == "lab":
        keep[count] = 0
    return torch.from_numpy(keep)


cv2.setNumThreads(1)  # the decoding thread shares a core with the network
