"""Shards -> batches. Order is arithmetic: what sample stands where depends on (seed, epoch, place)
alone.

Every random choice about a sample (view, target frame, crop, flip, dropped channels) comes from a
counter-based generator keyed by the seed and the sample's position in the run (``training.data.order``);
nothing is drawn in sequence, nothing needs saving. So a run stopped at any step resumes with
exactly the next sample, on any number of workers.

Clips are read by (shard, offset, length): one read, no tar to scan. Batches are prepared ahead, in
a thread of this process or in ``loader_workers`` processes of their own, and come in order in
either case.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from corrfractal.common import storage
from corrfractal.common.errors import IntegrityError
from corrfractal.shards.clip import Clip, decode_clip, read_members
from corrfractal.shards.manifest import SampleRef, load_manifest, sample_index
from training.config import REFERENCES, TrainingConfig

from .cache import ShardFiles
from .order import SAMPLE, check_share, epoch_order, positions_of, rng

U8 = npt.NDArray[np.uint8]

AHEAD = 2  # batches prepared before they are asked for, by the thread or by each process


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

    def parts(self, count: int) -> list[Batch]:
        """The batch cut into equal parts."""
        size = len(self.keys) // count
        cuts = [slice(k * size, (k + 1) * size) for k in range(count)]
        return [Batch(self.frames[c], self.labels[c], self.keep[c], self.keys[c]) for c in cuts]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(
            self.frames.to(device), self.labels.to(device), self.keep.to(device), self.keys
        )


class Batches:
    """Batches of one worker.

    Args:
        shards: folder of the shards, local or a URI.
        config: of the run.
        rank, world: which of how many workers.
        cache: where remote shards are kept on this host; None: ``training.data.cache.default_folder``.
    """

    def __init__(
        self,
        shards: str | Path,
        config: TrainingConfig,
        rank: int = 0,
        world: int = 1,
        cache: Path | None = None,
    ) -> None:
        check_share(config.batch_size, config.accumulate, [world])
        manifest = load_manifest(shards)
        self._shards, self._config, self._rank, self._world = shards, config, rank, world
        self._samples = usable_samples(shards, config)
        self.files = ShardFiles(
            shards,
            {entry.name: entry for entry in manifest.shards},
            cache,
            int(config.cache_gb * 1e9),
        )
        counts = Counter(sample.shard for sample in self._samples)
        self._names = tuple(counts)
        self._order = partial(
            epoch_order, config.seed, counts=tuple(counts.values()), window=config.shuffle_window
        )
        self._fetching: tuple[int, int] | None = None
        self.side = min(config.crop or manifest.config["size"], manifest.config["size"])
        """Height and width of the frames, pixels."""

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self._samples)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        config = self._config
        places = positions_of(step, config.batch_size, self._rank, self._world, config.accumulate)
        self._fetch_ahead(places[-1])
        examples = [self.example(position) for position in places]
        return Batch(
            frames=torch.stack([e.frames for e in examples]),
            labels=torch.stack([e.labels for e in examples]),
            keep=torch.stack([e.keep for e in examples]),
            keys=tuple(e.key for e in examples),
        )

    def iterate(self, first: int, last: int) -> Iterator[Batch]:
        """Batches of steps ``first`` .. ``last - 1``, prepared before their turn."""
        return (
            self._from_processes(first, last)
            if self._config.loader_workers
            else self._from_thread(first, last)
        )

    def _from_thread(self, first: int, last: int) -> Iterator[Batch]:
        """Decoding leaves the interpreter's lock, so a thread is enough where the network's step is
        long."""
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
        os.environ["PYTHONSAFEPATH"] = "1"  # loader processes import nothing of the working folder
        loader = torch.utils.data.DataLoader(
            _Steps(self),
            batch_size=None,
            sampler=range(first, last),
            num_workers=self._config.loader_workers,
            prefetch_factor=AHEAD,
            collate_fn=_as_it_is,
            # Fork would copy the locks of Ray's and PyTorch's threads
            multiprocessing_context="forkserver",
        )
        for batch in loader:
            if isinstance(batch, IntegrityError):
                raise batch
            yield batch

    def example(self, position: int) -> Example:
        """The sample at a position: a pure function of it."""
        ref = self.ref(position)
        draw = rng(self._config.seed, SAMPLE, position)
        view = int(draw.integers(ref.views))
        target = int(draw.integers(self._config.clip_frames_needed - 1, ref.frames))
        indices = (
            *(target + r if r < 0 else r for r in REFERENCES[self._config.references]),
            target,
        )
        clip = self._read(ref, indices, view)
        frames, labels = _crop_and_flip(clip, self._config.crop, draw)
        return Example(
            frames=torch.from_numpy(frames).permute(0, 3, 1, 2),
            labels=torch.from_numpy(labels),
            keep=_channels_to_keep(self._config, draw),
            key=ref.key,
        )

    def ref(self, position: int) -> SampleRef:
        """Which clip stands at a position."""
        epoch, place = divmod(position, len(self._samples))
        return self._samples[self._order(epoch).samples[place]]

    def _read(self, ref: SampleRef, indices: tuple[int, ...], view: int) -> Clip:
        block = self.files.read(ref.shard, ref.offset, ref.length)
        try:
            return decode_clip(read_members(block), frames=indices, views=(view,))
        except IntegrityError as exc:
            raise IntegrityError(
                f"{storage.join(self._shards, ref.shard)}, sample {ref.key}: {exc}. Run "
                f"`corrfractal verify {self._shards}`, then precompute again"
            ) from exc

    def _fetch_ahead(self, position: int) -> None:
        """At the first batch of a window, begin to fetch and check its shards, then those of the
        next one."""
        epoch, place = divmod(position, len(self._samples))
        order = self._order(epoch)
        window = order.window_at(place)
        if self._fetching == (epoch, window):
            return
        self._fetching = (epoch, window)
        following = (
            order.windows[window + 1]
            if window + 1 < len(order.windows)
            else self._order(epoch + 1).windows[0]
        )
        names = [self._names[shard] for shard in (*order.windows[window], *following)]
        threading.Thread(target=self._fetch, args=(names,), name="shards", daemon=True).start()

    def _fetch(self, names: list[str]) -> None:
        for name in names:
            try:
                self.files.ready(name)
            except Exception:  # told when the shard is asked for
                return


def usable_samples(shards: str | Path, config: TrainingConfig) -> list[SampleRef]:
    """The clips that hold enough stored frames for the references and a target."""
    index = sample_index(shards, load_manifest(shards))
    return [sample for sample in index if sample.frames >= config.clip_frames_needed]


class _Steps(torch.utils.data.Dataset[Batch | IntegrityError]):
    """What a loader process holds. An error travels as a value: PyTorch would wrap its message in a
    traceback."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> Batch | IntegrityError:
        try:
            return self._batches[step]
        except IntegrityError as exc:
            return exc


def _as_it_is(batch: Any) -> Any:
    return batch


def _crop_and_flip(clip: Clip, crop: int | None, draw: np.random.Generator) -> tuple[U8, U8]:
    """The same square and the same mirroring for all frames of a sample."""
    frames, labels = clip.frames, clip.labels[0]
    _, H, W, _ = frames.shape
    side = min(H, W) if crop is None else min(crop, H, W)
    y, x = int(draw.integers(H - side + 1)), int(draw.integers(W - side + 1))
    if crop is not None:
        frames, labels = (
            frames[:, y : y + side, x : x + side],
            labels[:, y : y + side, x : x + side],
        )
    if draw.random() < 0.5:
        frames, labels = frames[:, :, ::-1], labels[:, :, ::-1]
    return np.ascontiguousarray(frames), np.ascontiguousarray(labels)


def _channels_to_keep(config: TrainingConfig, draw: np.random.Generator) -> Tensor:
    """The input bottleneck of a sample: which of R, G, B (one or two are dropped) or of a, b (one)
    the network sees."""
    keep = np.ones(3, dtype=np.float32)
    order, count, dropped = (
        draw.permutation(3),
        int(draw.integers(1, 3)),
        draw.random() < config.channel_dropout,
    )
    if dropped and config.network.bottleneck == "rgb":
        keep[order[:count]] = 0
    elif dropped and config.network.bottleneck == "lab":
        keep[count] = 0
    return torch.from_numpy(keep)


cv2.setNumThreads(1)  # the decoding thread shares a core with the network
