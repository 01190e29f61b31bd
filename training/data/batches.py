"""Shards -> batches. The sample at a position is a function of (seed, epoch, position) only.

No generator state is advanced, so none is saved: a run stopped at any step resumes with exactly the
next sample, on any number of workers.

A batch is planned here (``Batches.plan``), and read and decoded before its turn by a thread of this
process or by ``loader_workers`` processes, which hold no state of the run: neither their number nor
the number of batches ahead changes a batch.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from corrfractal.common.errors import CorrFractalError
from corrfractal.runtime.process import cpu_count
from training.config import TrainingConfig

from .cache import ShardFiles
from .order import I64, SampleOrder, check_share, positions_of
from .reading import Batch, BatchPlan, BatchReader, Example, PackedBatch
from .samples import Sample, SampleIndex, Shard, read_samples

MOST_PROCESSES = 8  # by default, for each worker

CPU = torch.device("cpu")


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
        self._config = config
        self._rank = rank
        self._world = world
        self._samples = read_samples(shards, config) if samples is None else samples
        self.side = min(config.crop or self._samples.side, self._samples.side)
        self.files = ShardFiles(shards, len(self._samples.sizes), cache, int(config.cache_gb * 1e9))
        self._reader = BatchReader(shards, config, self.files)

        # Shards without a usable clip have no number in the order.
        self._numbers = np.flatnonzero(self._samples.counts)
        counts = self._samples.counts[self._numbers]
        self.order = SampleOrder(config.seed, counts, config.shuffle_window, config.batch_size)
        # Positions at which each slot has entered its window and will leave it, and the shards of
        # this and of its next window
        self._entered: dict[int, tuple[int, int, list[int]]] = {}
        self._end: int | None = None  # position after the last sample that will be needed

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self._samples)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        return self._reader.batch(self.plan(step))

    def plan(self, step: int) -> BatchPlan:
        """What the batch of a step is made of. Plans of consecutive steps name each shard that is
        to be fetched once."""
        config = self._config
        positions = positions_of(
            step, config.batch_size, self._rank, self._world, config.accumulate
        )
        return BatchPlan(
            positions=tuple(positions),
            samples=tuple(self.sample(position) for position in positions),
            fetch=self._shards_entered(positions),
        )

    def example(self, position: int) -> Example:
        """The sample at a position: a pure function of it."""
        return self._reader.example(position, self.sample(position))

    def sample(self, position: int) -> Sample:
        """The clip at a position."""
        return self._samples.sample(self.order.sample(position))

    def shard_bytes(self) -> I64:
        """Sizes of the shards that ``order`` counts samples of, int64 (N,)."""
        return self._samples.sizes[self._numbers]

    def iterate(self, first: int, last: int, device: torch.device = CPU) -> Iterator[Batch]:
        """Batches of steps ``first`` .. ``last - 1``, prepared before their turn.

        Args:
            first, last: steps.
            device: that the batches will be copied to. For a GPU they are in page-locked memory.
        """
        self._end = last * self._config.batch_size
        pinned = device.type == "cuda"
        processes = loader_processes(self._config, device)
        if processes:
            return self._from_processes(first, last, processes, pinned)
        return self._from_thread(first, last, pinned)

    def _from_thread(self, first: int, last: int, pinned: bool) -> Iterator[Batch]:
        """A thread suffices where the network's step takes long: decoding releases the GIL."""
        ahead = self._config.batches_ahead

        def prepare(step: int) -> Batch:
            batch = self[step]
            return batch.pin_memory() if pinned else batch

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            pending: deque[Future[Batch]] = deque()
            for step in range(first, last):
                while len(pending) < min(ahead, last - step):
                    pending.append(pool.submit(prepare, step + len(pending)))
                batch = pending.popleft().result()
                # The thread continues while the caller uses this batch.
                if step + ahead < last:
                    pending.append(pool.submit(prepare, step + ahead))
                yield batch

    def _from_processes(
        self, first: int, last: int, processes: int, pinned: bool
    ) -> Iterator[Batch]:
        # Loader processes must not import modules from the working folder.
        os.environ["PYTHONSAFEPATH"] = "1"
        # A fork of this process would copy locks that threads of Ray and PyTorch hold. Loader
        # processes are forks of one that has nothing but the modules that they need.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["training.data.reading"])
        loader = torch.utils.data.DataLoader(
            _PlannedBatches(self._reader.for_processes(context)),
            batch_size=None,
            sampler=map(self.plan, range(first, last)),
            num_workers=processes,
            prefetch_factor=self._config.batches_ahead,
            pin_memory=pinned,
            multiprocessing_context=context,
        )
        for packed in loader:
            if isinstance(packed, CorrFractalError):
                raise packed
            yield packed.unpack()

    def _shards_entered(self, positions: list[int]) -> tuple[Shard, ...]:
        """Where a slot enters a window, the window's shards and those of the slot's next window."""
        order = self.order
        current: list[int] = []
        following: list[int] = []
        for position in positions:
            slot = position % order.slots
            entered, left, _ = self._entered.get(slot, (0, 0, []))
            if entered <= position < left:
                continue
            window = order.window_at(position)
            shards = order.shards_of(window)
            next_position = order.position_after(position, window)
            next_shards: list[int] = []
            if self._end is None or next_position < self._end:
                next_shards = order.shards_of(order.window_at(next_position))
            self._entered[slot] = (position, next_position, shards + next_shards)
            current += shards
            following += next_shards
        if not current:
            return ()

        # The cache deletes what was used longest ago, which must not be what other slots need next.
        self.files.touch(self._shard(k) for _, _, shards in self._entered.values() for k in shards)
        return tuple(self._shard(k) for k in dict.fromkeys([*current, *following]))

    def _shard(self, number: int) -> Shard:
        """A shard by its number in the order."""
        return self._samples.shard(int(self._numbers[number]))


class _PlannedBatches(torch.utils.data.Dataset[PackedBatch | CorrFractalError]):
    """What a loader process holds. An error is returned as a value: PyTorch would replace its
    message by a traceback."""

    def __init__(self, reader: BatchReader) -> None:
        self._reader = reader

    def __getitem__(self, plan: BatchPlan) -> PackedBatch | CorrFractalError:
        try:
            return PackedBatch.pack(self._reader.batch(plan))
        except CorrFractalError as exc:
            return exc


def loader_processes(config: TrainingConfig, device: torch.device) -> int:
    """Number of processes that prepare the batches of a worker; 0: a thread."""
    if config.loader_workers is not None:
        return config.loader_workers
    if device.type != "cuda":
        return 0  # the network uses all cores
    # Set by Ray and by torchrun. Each worker keeps a core, on which it launches kernels.
    workers_of_host = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MOST_PROCESSES, cpu_count() // workers_of_host - 1))
