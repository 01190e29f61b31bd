"""Which sample stands where: arithmetic on (seed, epoch, place), the same on any number of workers.

Positions run 0, 1, 2, ... over all epochs; step s takes positions s * G ... (s + 1) * G - 1 of the global batch G. A
step is cut into ``accumulate`` parts of consecutive positions and each part among the workers, so that what stands in
a part does not depend on their number.

An epoch visits the shards in a random order, ``window`` of them at a time, and mixes all samples of
these: reading stays local (each shard is fetched once per epoch), and a batch still holds clips of
many shards. With no more shards than the window it is a full shuffle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

ORDER, SAMPLE, STEP = 0, 1, 2  # streams of randomness


@dataclass(frozen=True)
class EpochOrder:
    """One epoch.

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
    """Counter-based randomness: the same arguments give the same numbers, on any machine, in any
    order of calls."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, stream, *counter))))


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, counts: tuple[int, ...], window: int) -> EpochOrder:
    """The order of an epoch.

    Args:
        counts: samples of each shard; the index numbers the samples shard by shard.
        window: shards that are mixed with each other.
    """
    draw = rng(seed, ORDER, epoch)
    first = np.concatenate([[0], np.cumsum(counts)])
    shards = np.arange(len(counts)) if len(counts) <= window else draw.permutation(len(counts))
    windows = tuple(tuple(shards[k : k + window].tolist()) for k in range(0, len(shards), window))
    parts = []
    for members in windows:
        within = np.concatenate([np.arange(first[s], first[s + 1]) for s in members])
        parts.append(within[draw.permutation(len(within))])
    return EpochOrder(np.concatenate(parts), windows, np.cumsum([len(part) for part in parts]))


def positions_of(
    step: int, batch_size: int, rank: int = 0, world: int = 1, accumulate: int = 1
) -> list[int]:
    """Positions that a worker takes in a step: its share of each part, part after part."""
    part, share = batch_size // accumulate, batch_size // accumulate // world
    firsts = (step * batch_size + k * part + rank * share for k in range(accumulate))
    return [position for first in firsts for position in range(first, first + share)]


def check_share(batch_size: int, accumulate: int, worlds: Sequence[int]) -> None:
    """Refuse a batch that cannot be cut evenly.

    Raises:
        ValueError: names the number of workers that does not fit.
    """
    for world in worlds:
        if batch_size % (accumulate * world):
            times = f" times accumulate, {accumulate}" if accumulate > 1 else ""
            raise ValueError(
                f"batch_size {batch_size} is not a multiple of the number of workers, "
                f"{world}{times}"
            )
