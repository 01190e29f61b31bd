"""The order of the samples, as arithmetic on (seed, epoch, position): the same for any number of
workers.

Positions count samples over all epochs: 0, 1, 2, ... Step s takes the positions s * G to
(s + 1) * G - 1, where G is the batch size. A step is divided into ``accumulate`` parts of
consecutive positions, and each part among the workers. So the samples of a part do not depend on
the number of workers.

An epoch visits the shards in a random order, ``window`` of them at a time, and shuffles all samples
of a window. Each shard is fetched once per epoch, and a batch still has clips of many shards. If
there are no more shards than the window, an epoch is a full shuffle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

# Streams of randomness
ORDER = 0
SAMPLE = 1
STEP = 2


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch. A place is a position within it.

    Attributes:
        samples: int64 (n,), the sample (as numbered in the index) at each place.
        windows: the shards (by number) of each window, in the order in which they are read.
        ends: int64 (len(windows),), the place after the last one of each window.
    """

    samples: I64
    windows: tuple[tuple[int, ...], ...]
    ends: I64

    def window_at(self, place: int) -> int:
        """Number of the window that holds a place."""
        return int(np.searchsorted(self.ends, place, side="right"))


def rng(seed: int, stream: int, *counter: int) -> np.random.Generator:
    """Counter-based randomness: the same arguments give the same numbers, on any machine and in any
    order of calls."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, stream, *counter))))


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, counts: tuple[int, ...], window: int) -> EpochOrder:
    """The order of an epoch.

    Args:
        seed: of the run.
        epoch: from 0.
        counts: samples of each shard; the index numbers the samples shard by shard.
        window: shards that are mixed with each other.
    """
    draw = rng(seed, ORDER, epoch)
    shards = np.arange(len(counts)) if len(counts) <= window else draw.permutation(len(counts))
    windows = tuple(
        tuple(shards[start : start + window].tolist()) for start in range(0, len(shards), window)
    )

    first_samples = np.concatenate([[0], np.cumsum(counts)])
    parts = []
    for members in windows:
        ranges = [np.arange(first_samples[s], first_samples[s + 1]) for s in members]
        samples = np.concatenate(ranges)
        parts.append(samples[draw.permutation(len(samples))])
    ends = np.cumsum([len(part) for part in parts])
    return EpochOrder(samples=np.concatenate(parts), windows=windows, ends=ends)


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
