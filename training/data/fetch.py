"""Bytes that hosts fetch in an epoch, from the order of the samples and the sizes of the shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .order import I64, SampleOrder, positions_of

HOSTS = (1, 4, 16)


def epoch_fetch(
    order: SampleOrder, sizes: I64, accumulate: int, hosts: Sequence[int] = HOSTS
) -> dict[int, int | None]:
    """Bytes that hosts fetch in the first epoch, all together, with empty caches.

    A host fetches each shard of its slots once, given a cache that holds two windows of each slot.

    Args:
        order: of the samples.
        sizes: int64 (N,), bytes of each shard that the order counts samples of.
        accumulate: parts of a batch.
        hosts: numbers of hosts, with equal shares of each part.

    Returns:
        Bytes by number of hosts; None where a part cannot be divided among so many.
    """
    epoch = order.epoch(0)
    fetched: dict[int, int | None] = {}
    for count in hosts:
        if order.slots % (accumulate * count):
            fetched[count] = None
            continue
        total = 0
        for host in range(count):
            slots = positions_of(0, order.slots, host, count, accumulate)
            shards = np.unique(np.concatenate([epoch.shards_of_slot(slot) for slot in slots]))
            total += int(sizes[shards].sum())
        fetched[count] = total
    return fetched
