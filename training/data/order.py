"""The order of the samples, as arithmetic on (seed, epoch, position): the same for any number of
workers.

Positions count samples over all epochs: 0, 1, 2, ... Step s takes the positions s * G to
(s + 1) * G - 1, where G is the batch size; position s * G + j is in slot j. A step is divided into
``accumulate`` parts of consecutive positions, and each part among the workers. So the samples of a
part do not depend on the number of workers, and a worker has the same slots in every step.

An epoch visits the shards in random order. Laid end to end, their samples form a line, which is cut
into G lanes of equal length. Lane j holds the samples j, j + G, j + 2G, ... of the epoch: each slot
walks through shards of its own, and a worker needs the shards of its slots only. Within a lane, the
samples of a few shards at a time, a window, are shuffled. With fewer shards than slots, an epoch is
a full shuffle.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

# Streams of randomness
ORDER = 0
SAMPLE = 1
STEP = 2

# Streams within the order of an epoch
OF_SHARD = 0
OF_WINDOW = 1

EXCHANGED = 16  # shards on each side of a lane's end that may be exchanged
NOTHING = (0, np.empty(0, dtype=np.int64))
KEPT_EPOCHS = 2  # the current one, and the next one for fetching ahead


class Window(NamedTuple):
    """Samples of a lane that are shuffled together.

    Attributes:
        epoch, lane: which ones.
        start, end: first point of the line and the one after the last.
        left: samples of the lane from the asked place to the end of the window.
    """

    epoch: int
    lane: int
    start: int
    end: int
    left: int


def rng(seed: int, stream: int, *counter: int) -> np.random.Generator:
    """Counter-based randomness: the same arguments give the same numbers, on any machine and in any
    order of calls."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, stream, *counter))))


class SampleOrder:
    """The order of the samples of a run.

    Args:
        seed: of the run.
        counts: samples of each shard, at least one; samples are numbered shard by shard.
        window: shards that are mixed with each other, over all slots together.
        slots: samples of a batch.
    """

    def __init__(self, seed: int, counts: Sequence[int] | I64, window: int, slots: int) -> None:
        self.slots = slots
        self._seed = seed
        self._counts = np.asarray(counts, dtype=np.int64)
        self._window = window
        self._length = int(self._counts.sum())
        self._epochs: dict[int, EpochOrder] = {}

    def __len__(self) -> int:
        """Samples of an epoch."""
        return self._length

    def epoch(self, number: int) -> EpochOrder:
        """The order of an epoch, from 0."""
        if number not in self._epochs:
            while len(self._epochs) >= KEPT_EPOCHS:
                del self._epochs[min(self._epochs)]
            self._epochs[number] = EpochOrder(
                self._seed, number, self._counts, self._window, self.slots
            )
        return self._epochs[number]

    def sample(self, position: int) -> int:
        """The sample, as numbered in the index, at a position of the run."""
        epoch, place = divmod(position, self._length)
        return self.epoch(epoch).sample(place)

    def window_at(self, position: int) -> Window:
        """The window that holds a position of the run."""
        epoch, place = divmod(position, self._length)
        return self.epoch(epoch).window_at(place)

    def shards_of(self, window: Window) -> list[int]:
        """Numbers of the shards of a window, in the order of the visit."""
        return self.epoch(window.epoch).shards_of(window)

    def position_after(self, position: int, window: Window) -> int:
        """The first position, of the slot of a position in a window, that is not in the window."""
        return position + window.left * self.epoch(window.epoch).lanes


class EpochOrder:
    """The order of one epoch: a few numbers per shard, and the samples of one window per lane.

    A place is a position within the epoch.

    Args:
        seed, counts, window, slots: as of ``SampleOrder``.
        epoch: from 0.

    Attributes:
        lanes: ``slots``, or 1 for a full shuffle.
        per_window: shards of a window.
    """

    def __init__(self, seed: int, epoch: int, counts: I64, window: int, slots: int) -> None:
        self._key = (seed, ORDER, epoch)
        self._slots = slots
        self._counts = counts
        self._first_samples = np.cumsum(counts) - counts
        self._shuffled: dict[int, tuple[int, I64]] = {}  # lane: start and samples of a window
        total = int(counts.sum())
        draw = rng(*self._key)

        # The line: shards in the order of the visit, the ends of their samples, starts of lanes
        self.lanes = slots if len(counts) >= slots else 1
        if len(counts) < slots:
            self.per_window = len(counts)
            self._visit = np.arange(len(counts))
            self._shuffled[0] = (0, draw.permutation(total))
        else:
            self.per_window = -(-window // slots)
            self._visit = draw.permutation(len(counts))
        self._ends = np.cumsum(counts[self._visit])
        # Lane j holds the samples j, j + G, ...: the first ``total % lanes`` lanes have one more.
        lengths = (total - np.arange(self.lanes) + self.lanes - 1) // self.lanes
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._align_lanes()

    def sample(self, place: int) -> int:
        """The sample, as numbered in the index, at a place."""
        lane = place % self.lanes
        point = self._point(place)
        start, samples = self._shuffled.get(lane, NOTHING)
        if not start <= point < start + len(samples):
            window = self.window_at(place)
            start = window.start
            samples = self._shuffle(window)
            self._shuffled[lane] = (start, samples)
        return int(samples[point - start])

    def window_at(self, place: int) -> Window:
        """The window that holds a place."""
        lane = place % self.lanes
        point = self._point(place)
        lane_start = int(self._starts[lane])
        lane_end = int(self._starts[lane + 1])

        # Windows are ``per_window`` shards each, counted from the start of the lane.
        first = self._visited_at(lane_start)
        beyond = self._visited_at(point) - first
        begin = first + beyond - beyond % self.per_window
        start = max(lane_start, self._start_of(begin))
        stop = min(begin + self.per_window, len(self._ends)) - 1
        end = min(lane_end, int(self._ends[stop]))
        left = point - start + 1 if lane % 2 else end - point
        return Window(self._key[2], lane, start, end, left)

    def shards_of(self, window: Window) -> list[int]:
        """Numbers of the shards of a window, in the order of the visit."""
        return self._shards_between(window.start, window.end)

    def shards_of_slot(self, slot: int) -> list[int]:
        """Numbers of the shards of the samples at the places slot, slot + G, slot + 2G, ..."""
        if self.lanes == self._slots:
            return self._shards_between(int(self._starts[slot]), int(self._starts[slot + 1]))
        _, samples = self._shuffled[0]
        shards = np.searchsorted(self._first_samples, samples[slot :: self._slots], side="right")
        return [int(shard) - 1 for shard in np.unique(shards)]

    def _point(self, place: int) -> int:
        """The point of the line at a place."""
        lane = place % self.lanes
        depth = place // self.lanes
        # Odd lanes are walked backwards: two lanes that share a shard are there at the same time,
        # both at the start of the epoch or both at its end.
        if lane % 2:
            return int(self._starts[lane + 1]) - 1 - depth
        return int(self._starts[lane]) + depth

    def _visited_at(self, point: int) -> int:
        """Index into ``_visit`` of the shard at a point."""
        return int(np.searchsorted(self._ends, point, side="right"))

    def _start_of(self, index: int) -> int:
        """First point of the shard at an index of ``_visit``."""
        return int(self._ends[index - 1]) if index else 0

    def _shards_between(self, start: int, end: int) -> list[int]:
        visited = self._visit[self._visited_at(start) : self._visited_at(end - 1) + 1]
        return [int(shard) for shard in visited]

    def _shuffle(self, window: Window) -> I64:
        """The samples of a window, shuffled, int64 (end - start,)."""
        parts = []
        for index in range(self._visited_at(window.start), self._visited_at(window.end - 1) + 1):
            shard = int(self._visit[index])
            start = self._start_of(index)
            begin = max(window.start, start) - start
            stop = min(window.end, int(self._ends[index])) - start
            within = np.arange(begin, stop)
            # A shard that several lanes share is dealt to them at random.
            if stop - begin < self._counts[shard]:
                dealt = rng(*self._key, OF_SHARD, shard).permutation(self._counts[shard])
                within = dealt[begin:stop]
            parts.append(self._first_samples[shard] + within)
        samples = np.concatenate(parts)
        order = rng(*self._key, OF_WINDOW, window.start).permutation(len(samples))
        return samples[order]

    def _align_lanes(self) -> None:
        """Let lanes end where shards end, as far as an exchange of a few shards does it: a shard
        that the end of a lane cuts is needed by two lanes, perhaps on two hosts."""
        visit = self._visit
        first = 0  # of the visited shards that may be exchanged
        for end in self._starts[1:-1].tolist():
            cut = self._visited_at(end)
            lacking = end - self._start_of(cut)
            low = max(first, cut - EXCHANGED)
            near = visit[low : cut + EXCHANGED]  # a view
            own, later = _exchange(self._counts[near], cut - low, lacking) if lacking else ((), ())
            if own:
                near[[*own, *later]] = near[[*later, *own]]
                stop = low + len(near)
                self._ends[low:stop] = self._start_of(low) + np.cumsum(self._counts[near])
            first = cut + 1 if lacking and not own else cut


def _exchange(counts: I64, own: int, lacking: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """One or two of the first ``own`` shards, and as many later ones with ``lacking`` samples more;
    empty if there are none."""
    for size in (1, 2):
        left = list(itertools.combinations(range(own), size))
        right = list(itertools.combinations(range(own, len(counts)), size))
        if left and right:
            more = counts[right].sum(1)[None, :] - counts[left].sum(1)[:, None]
            found = np.argwhere(more == lacking)
            if len(found):
                return left[found[0, 0]], right[found[0, 1]]
    return (), ()


def order_version(shards: int, window: int, slots: int) -> int:
    """Version of the function from (seed, position) to samples: 1 if it is the one of version
    0.1.0, which had no lanes, and 2 otherwise. A run must not mix them."""
    return 1 if shards < slots and shards <= window else 2


def positions_of(
    step: int, batch_size: int, rank: int = 0, world: int = 1, accumulate: int = 1
) -> list[int]:
    """Positions of a worker's samples in a step, part after part."""
    part_size = batch_size // accumulate
    share = part_size // world
    positions: list[int] = []
    for part in range(accumulate):
        first = step * batch_size + part * part_size + rank * share
        positions.extend(range(first, first + share))
    return positions


def check_share(batch_size: int, accumulate: int, worlds: Sequence[int]) -> None:
    """Refuse a batch that cannot be divided evenly.

    Args:
        batch_size: of all workers together.
        accumulate: parts of the batch.
        worlds: numbers of workers that must all be possible.

    Raises:
        ValueError: names the number of workers that does not divide the batch.
    """
    for world in worlds:
        if batch_size % (accumulate * world):
            times = f" times accumulate, {accumulate}" if accumulate > 1 else ""
            raise ValueError(
                f"batch_size {batch_size} is not a multiple of the number of workers, "
                f"{world}{times}"
            )
