"""What sample stands where is arithmetic: each once per epoch, and each slot walks through shards of
its own."""

from __future__ import annotations

import numpy as np
import pytest
from naive_lanes import naive_order

from training.data.fetch import epoch_fetch
from training.data.order import EpochOrder, SampleOrder, check_share, positions_of

COUNTS = (7, 31, 1, 12, 20, 9, 40, 3, 25, 16)


def epochs(counts=COUNTS, *, window=16, slots=4, seed=7, count=3):
    """The samples of some epochs, each in the order of its places."""
    order = SampleOrder(seed, counts, window, slots)
    length = len(order)
    return [
        [order.sample(epoch * length + place) for place in range(length)] for epoch in range(count)
    ]


@pytest.mark.parametrize("slots", [1, 3, 4, 10, 11])
@pytest.mark.parametrize("window", [1, 5, 99])
def test_every_sample_stands_exactly_once_in_an_epoch(window, slots):
    for samples in epochs(window=window, slots=slots):
        assert sorted(samples) == list(range(sum(COUNTS)))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [tuple(samples) for seed in range(3) for samples in epochs(seed=seed)]
    assert len(set(orders)) == len(orders)


def test_the_order_is_that_of_the_complete_list_written_as_described():
    draw = np.random.default_rng(0)
    for case in range(60):
        shards = int(draw.integers(1, 25))
        counts = draw.integers(1, 15, shards).tolist()
        if case % 4 == 0:
            counts[0] = 80  # longer than a lane
        window = int(draw.integers(1, 20))
        slots = int(draw.integers(1, 9))
        for epoch, samples in enumerate(epochs(counts, window=window, slots=slots, count=2)):
            assert samples == naive_order(7, epoch, counts, window, slots)


def test_samples_can_be_asked_for_in_any_order():
    order = SampleOrder(7, COUNTS, 2, 4)
    forwards = [order.sample(position) for position in range(3 * len(order))]
    again = SampleOrder(7, COUNTS, 2, 4)
    for position in np.random.default_rng(0).permutation(len(forwards)).tolist():
        assert again.sample(position) == forwards[position]


def test_a_slot_reads_the_shards_of_its_lane_only_and_a_window_of_them_at_a_time():
    shard_of = np.repeat(np.arange(len(COUNTS)), COUNTS)
    order = EpochOrder(0, 2, np.array(COUNTS), 8, 4)
    for slot in range(4):
        places = range(slot, sum(COUNTS), 4)
        assert {shard_of[order.sample(place)] for place in places} == set(
            order.shards_of_slot(slot)
        )
        for place in places:
            window = order.window_at(place)
            shards = order.shards_of(window)
            assert len(shards) <= 2
            assert shard_of[order.sample(place)] in shards
            following = place + 4 * window.left
            if following < sum(COUNTS):
                assert order.window_at(following)[:3] != window[:3]
            assert order.window_at(following - 4)[:3] == window[:3]


def test_two_slots_that_share_a_shard_read_it_at_the_same_end_of_the_epoch():
    """Ten shards of equal size for four slots: half a shard for each of two."""
    order = EpochOrder(0, 0, np.full(10, 6), 1, 4)
    first = [order.shards_of(order.window_at(slot))[0] for slot in range(4)]
    last = [order.shards_of(order.window_at(56 + slot))[0] for slot in range(4)]
    assert last[0] == last[1]
    assert last[2] == last[3]
    assert len({*first, *last}) == 6


def test_with_fewer_shards_than_slots_every_place_can_hold_any_sample():
    """A full shuffle: over many epochs the first place sees all shards about as often as they have
    samples."""
    shard_of = np.repeat(np.arange(4), (10, 20, 30, 40))
    counts = np.array((10, 20, 30, 40))
    firsts = [shard_of[EpochOrder(1, epoch, counts, 16, 5).sample(0)] for epoch in range(800)]
    shares = np.bincount(firsts, minlength=4) / len(firsts)
    assert np.abs(shares - np.array([0.1, 0.2, 0.3, 0.4])).max() < 0.07
    assert EpochOrder(1, 0, counts, 16, 5).shards_of_slot(0) == [0, 1, 2, 3]


def test_with_more_than_four_shards_a_slot_hosts_fetch_little_more_than_the_data():
    """The cuts between hosts bound it; exchanges of shards avoid most of them."""
    draw = np.random.default_rng(0)
    for slots in (16, 48):
        ratios = []
        for seed in range(20):
            counts = draw.integers(20, 90, 4 * slots + 1)
            sizes = counts * 1000
            fetched = epoch_fetch(SampleOrder(seed, counts, 16, slots), sizes, 1)
            assert fetched[1] == sizes.sum()
            assert fetched[4] <= sizes.sum() + 3 * sizes.max()
            assert fetched[16] <= sizes.sum() + 15 * sizes.max()
            ratios.append(fetched[16] / sizes.sum())
        assert np.mean(ratios) < 1.07


def test_hosts_among_which_a_part_cannot_be_divided_have_no_figure():
    order = SampleOrder(0, COUNTS, 16, 8)
    assert epoch_fetch(order, np.array(COUNTS), 2, (1, 4, 8))[8] is None
    assert epoch_fetch(order, np.array(COUNTS), 1, (1, 4, 8))[8] is not None


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_positions_of_all_parts_and_workers_count_up_without_gap(
    accumulate: int, world: int
) -> None:
    taken = []
    for step in range(5):
        shares = [positions_of(step, 12, rank, world, accumulate) for rank in range(world)]
        size = 12 // accumulate // world
        taken += [
            p
            for k in range(accumulate)
            for share in shares
            for p in share[k * size : (k + 1) * size]
        ]
    assert taken == list(range(60))


def test_a_number_of_workers_that_does_not_fit_is_named() -> None:
    check_share(24, 2, [1, 2, 3, 4])
    with pytest.raises(
        ValueError, match="24 is not a multiple of the number of workers, 5 times accumulate, 2"
    ):
        check_share(24, 2, range(1, 6))
