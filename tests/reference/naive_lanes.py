"""The order of an epoch as a complete list, written as its description reads: the slow oracle of
``training.data.order``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from training.data.order import rng

EXCHANGED = 16


def naive_order(seed: int, epoch: int, counts: Sequence[int], window: int, slots: int) -> list[int]:
    """The samples of an epoch, in the order in which batches take them."""
    total = sum(counts)
    if len(counts) < slots:
        return rng(seed, 0, epoch).permutation(total).tolist()
    lengths = [len(range(lane, total, slots)) for lane in range(slots)]

    # 1. The visit, with pairs of shards exchanged so that lanes end where shards end
    visit = rng(seed, 0, epoch).permutation(len(counts)).tolist()
    movable = 0
    for lane in range(slots - 1):
        end = sum(lengths[: lane + 1])
        cut = 0
        while sum(counts[shard] for shard in visit[: cut + 1]) <= end:
            cut += 1
        lacking = end - sum(counts[shard] for shard in visit[:cut])
        found = lacking and _exchange(visit, counts, lacking, max(movable, cut - EXCHANGED), cut)
        movable = cut + 1 if lacking and not found else cut

    # 2. The line: (shard, sample) one after the other, and its stretches, the lanes
    starts = [sum(counts[:shard]) for shard in range(len(counts))]
    line = [(shard, starts[shard] + k) for shard in visit for k in range(counts[shard])]
    lanes = []
    for lane in range(slots):
        first = sum(lengths[:lane])
        members = line[first : first + lengths[lane]]
        shuffled = _shuffled_lane(
            members, first, seed, epoch, counts, starts, -(-window // slots), line
        )
        lanes.append(shuffled[::-1] if lane % 2 else shuffled)

    # 3. A batch takes one sample of each lane.
    return [lanes[place % slots][place // slots] for place in range(total)]


def _exchange(visit: list[int], counts: Sequence[int], lacking: int, low: int, cut: int) -> bool:
    for size in (1, 2):
        later = range(cut, min(cut + EXCHANGED, len(visit)))
        for left in itertools.combinations(range(low, cut), size):
            for right in itertools.combinations(later, size):
                more = sum(counts[visit[k]] for k in right) - sum(counts[visit[k]] for k in left)
                if more == lacking:
                    for a, b in zip(left, right, strict=True):
                        visit[a], visit[b] = visit[b], visit[a]
                    return True
    return False


def _shuffled_lane(
    members: list[tuple[int, int]],
    first: int,
    seed: int,
    epoch: int,
    counts: Sequence[int],
    starts: Sequence[int],
    per_window: int,
    line: list[tuple[int, int]],
) -> list[int]:
    """The samples of a lane, whose first point of the line is ``first``, window by window."""
    shards = list(dict.fromkeys(shard for shard, _ in members))
    samples: list[int] = []
    for number in range(0, len(shards), per_window):
        of_window = []
        for shard in shards[number : number + per_window]:
            own = [k for k, (member, _) in enumerate(members) if member == shard]
            if len(own) == counts[shard]:
                of_window += [members[k][1] for k in own]
                continue
            # A shared shard: the lane takes its share of the shard's own random order.
            dealt = rng(seed, 0, epoch, 0, shard).permutation(counts[shard]).tolist()
            begin = first + own[0] - line.index((shard, starts[shard]))
            of_window += [starts[shard] + k for k in dealt[begin : begin + len(own)]]
        order = rng(seed, 0, epoch, 1, first + len(samples)).permutation(len(of_window))
        samples += [of_window[k] for k in order]
    return samples
