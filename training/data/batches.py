"""Shards -> batches. The sample at a position is a function of (seed, epoch, position) only.

Every random choice about a sample (view, target frame, crop, flip, dropped channels) comes from a
counter-based generator keyed by the seed and the sample's position in the run
(``training.data.order``). No generator state is advanced, so none is saved: a run stopped at any
step resumes with exactly the next sample, on any number of workers.

Clips are read by (shard, offset, length): one read, without scanning the tar. Batches are prepared
ahead of time by a thread of this process or by ``loader_workers`` processes, and arrive in order.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from corrfractal.common.errors import IntegrityError
from corrfractal.files import storage
from corrfractal.shards.clip import Clip, decode_clip, read_members
from training.config import REFERENCES, TrainingConfig

from .cache import ShardFiles
from .order import I64, SAMPLE, SampleOrder, Window, check_share, positions_of, rng
from .samples import Sample, SampleIndex, Shard, read_samples

U8 = npt.NDArray[np.uint8]

AHEAD = 2  # batches prepared before their turn, by the thread or by each process
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

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(
            self.frames.to(device), self.labels.to(device), self.keep.to(device), self.keys
        )


class Batches:
    """Batches of one worker, by step.

    Args:
        shards: folder of the shards, local or a URI.
        config: of the run.
        rank: of this worker.
        world: number of workers.
        cache: folder of this host for remote shards; None:
            ``training.data.cache.default_folder``.
        samples: of the shards; None: manifest and index are read.

    Attributes:
        files: the shards.
        order: of the samples.
        side: height and width of the frames, pixels.

    Raises:
        ValueError: the batch cannot be divided among the workers.
    """

    def __init__(
        self,
        shards: str | Path,
        config: TrainingConfig,
        rank: int = 0,
        world: int = 1,
        cache: Path | None = None,
        samples: SampleIndex | None = None,
    ) -> None:
        check_share(config.batch_size, config.accumulate, [world])
        _use_one_opencv_thread()
        self._shards = shards
        self._config = config
        self._rank = rank
        self._world = world
        self._samples = read_samples(shards, config) if samples is None else samples
        self.side = min(config.crop or self._samples.side, self._samples.side)
        self.files = ShardFiles(shards, cache, int(config.cache_gb * 1e9))

        # Shards without a usable clip have no number in the order.
        self._numbers = np.flatnonzero(self._samples.counts)
        counts = self._samples.counts[self._numbers]
        self.order = SampleOrder(config.seed, counts, config.shuffle_window, config.batch_size)
        # The window that each slot is in, and the shards of this and of its next one
        self._entered: dict[int, tuple[Window, list[int]]] = {}
        self._end: int | None = None  # position after the last sample that will be needed

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self._samples)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        config = self._config
        positions = positions_of(
            step, config.batch_size, self._rank, self._world, config.accumulate
        )
        self._fetch_ahead(positions)
        examples = [self.example(position) for position in positions]
        return Batch(
            frames=torch.stack([example.frames for example in examples]),
            labels=torch.stack([example.labels for example in examples]),
            keep=torch.stack([example.keep for example in examples]),
            keys=tuple(example.key for example in examples),
        )

    def shard_bytes(self) -> I64:
        """Sizes of the shards that ``order`` counts samples of, int64 (N,)."""
        return self._samples.sizes[self._numbers]

    def iterate(self, first: int, last: int) -> Iterator[Batch]:
        """Batches of steps ``first`` .. ``last - 1``, prepared before their turn."""
        self._end = last * self._config.batch_size
        if self._config.loader_workers:
            return self._from_processes(first, last)
        return self._from_thread(first, last)

    def _from_thread(self, first: int, last: int) -> Iterator[Batch]:
        """A thread suffices where the network's step takes long: decoding releases the GIL."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            pending: list[Future[Batch]] = [
                pool.submit(self.__getitem__, s) for s in range(first, min(first + AHEAD, last))
            ]
            for step in range(first, last):
                batch = pending.pop(0).result()
                if step + AHEAD < last:
                    pending.append(pool.submit(self.__getitem__, step + AHEAD))
                yield batch

    def _from_processes(self, first: int, last: int) -> Iterator[Batch]:
        # Loader processes must not import modules from the working folder.
        os.environ["PYTHONSAFEPATH"] = "1"
        loader = torch.utils.data.DataLoader(
            _StepDataset(self),
            batch_size=None,
            sampler=range(first, last),
            num_workers=self._config.loader_workers,
            prefetch_factor=AHEAD,
            worker_init_fn=_use_one_opencv_thread,
            # A fork would copy locks that threads of Ray and PyTorch hold.
            multiprocessing_context="forkserver",
        )
        for batch in loader:
            if isinstance(batch, IntegrityError):
                raise batch
            yield batch

    def example(self, position: int) -> Example:
        """The sample at a position: a pure function of it."""
        sample = self.sample(position)
        draw = rng(self._config.seed, SAMPLE, position)
        view = int(draw.integers(sample.views))
        target = int(draw.integers(self._config.clip_frames_needed - 1, sample.frames))
        indices = [
            target + reference if reference < 0 else reference
            for reference in REFERENCES[self._config.references]
        ]
        clip = self._read(sample, (*indices, target), view)
        frames, labels = _crop_and_flip(clip, self._config.crop, draw)
        return Example(
            frames=torch.from_numpy(frames).permute(0, 3, 1, 2),
            labels=torch.from_numpy(labels),
            keep=_channels_to_keep(self._config, draw),
            key=clip.key,
        )

    def sample(self, position: int) -> Sample:
        """The clip at a position."""
        return self._samples.sample(self.order.sample(position))

    def _read(self, sample: Sample, indices: tuple[int, ...], view: int) -> Clip:
        block = self.files.read(sample.shard, sample.offset, sample.length)
        try:
            return decode_clip(read_members(block), frames=indices, views=(view,))
        except IntegrityError as exc:
            raise IntegrityError(
                f"{storage.join(self._shards, sample.shard.name)}, clip at byte {sample.offset}: "
                f"{exc}. Run `corrfractal verify {self._shards}`, then precompute again"
            ) from exc

    def _fetch_ahead(self, positions: list[int]) -> None:
        """Where a slot enters a window, start to fetch and check the window's shards and those of
        the slot's next window."""
        order = self.order
        current: list[int] = []
        following: list[int] = []
        for position in positions:
            slot = position % order.slots
            window = order.window_at(position)
            entered, _ = self._entered.get(slot, (None, []))
            if entered is not None and entered[:3] == window[:3]:
                continue
            shards = order.shards_of(window)
            next_position = order.position_after(position, window)
            next_shards: list[int] = []
            if self._end is None or next_position < self._end:
                next_shards = order.shards_of(order.window_at(next_position))
            self._entered[slot] = (window, shards + next_shards)
            current += shards
            following += next_shards
        if not current:
            return

        # The cache deletes what was used longest ago, which must not be what other slots need next.
        self.files.touch(self._shard(k) for _, shards in self._entered.values() for k in shards)
        needed = [self._shard(k) for k in dict.fromkeys([*current, *following])]
        for part in range(min(FETCHING_THREADS, len(needed))):
            threading.Thread(
                target=self._fetch,
                args=(needed[part::FETCHING_THREADS],),
                name="shards",
                daemon=True,
            ).start()

    def _shard(self, number: int) -> Shard:
        """A shard by its number in the order."""
        return self._samples.shard(int(self._numbers[number]))

    def _fetch(self, shards: list[Shard]) -> None:
        for shard in shards:
            try:
                self.files.ready(shard)
            except Exception:  # raised again when the shard is read
                return


class _StepDataset(torch.utils.data.Dataset[Batch | IntegrityError]):
    """What a loader process holds. An error is returned as a value: PyTorch would replace its
    message by a traceback."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Batch | IntegrityError:
        try:
            return self._batches[step]
        except IntegrityError as exc:
            return exc


def _use_one_opencv_thread(*_: int) -> None:
    """Decoding shares a core with the network; more threads would only compete for it."""
    cv2.setNumThreads(1)


def _crop_and_flip(clip: Clip, crop: int | None, draw: np.random.Generator) -> tuple[U8, U8]:
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
