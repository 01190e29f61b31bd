"""What sample stands where is arithmetic: each once per epoch, mixed over shards, read shard window
by shard window."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.order import check_share, epoch_order, positions_of

COUNTS = (7, 31, 1, 12, 20, 9, 40, 3, 25, 16)


@pytest.mark.parametrize("window", [1, 3, 10, 99])
def test_every_sample_stands_exactly_once_in_an_epoch(window: int) -> None:
    for epoch in range(3):
        assert sorted(epoch_order(7, epoch, COUNTS, window).samples) == list(range(sum(COUNTS)))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [
        tuple(epoch_order(seed, epoch, COUNTS, 3).samples)
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("window", [1, 3, 4])
def test_the_places_of_a_window_hold_the_samples_of_its_shards_and_no_others(window: int) -> None:
    order = epoch_order(0, 2, COUNTS, window)
    shard_of = np.repeat(np.arange(len(COUNTS)), COUNTS)
    assert sorted(shard for members in order.windows for shard in members) == list(
        range(len(COUNTS))
    )
    assert max(map(len, order.windows)) == window
    for place, sample in enumerate(order.samples):
        assert shard_of[sample] in order.windows[order.window_at(place)]


def test_with_no_more_shards_than_the_window_every_place_can_hold_any_sample() -> None:
    """A full shuffle: over many epochs the first place sees all shards about as often as they have
    samples."""
    shard_of = np.repeat(np.arange(4), (10, 20, 30, 40))
    firsts = [
        shard_of[epoch_order(1, epoch, (10, 20, 30, 40), 4).samples[0]] for epoch in range(800)
    ]
    shares = np.bincount(firsts, minlength=4) / len(firsts)
    assert np.abs(shares - np.array([0.1, 0.2, 0.3, 0.4])).max() < 0.07


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
