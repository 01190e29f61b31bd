from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from corrfractal.shards.manifest import LabelStatistics
from pipeline.label.pseudo_labels import label_statistics, label_views, view_seed


def test_labels_depend_on_key_view_and_seed_alone(moving_frames, config):
    config = dataclasses.replace(config, views=2)
    frames = moving_frames[:2]
    labels, books = label_views(frames, "a_0", config)
    again, _ = label_views(frames, "a_0", config)
    np.testing.assert_array_equal(labels, again)
    assert labels.shape == (2, 2, 160, 192)
    assert books[0].selection != books[1].selection
    assert label_views(frames, "b_0", config)[1][0].selection != books[0].selection


def test_seeds_of_views_differ():
    seeds = {view_seed(seed, key, view) for seed in range(3) for key in "abc" for view in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_statistics_count_every_pixel_and_every_change():
    labels = np.zeros((1, 2, 2, 2), np.uint8)
    labels[0, 1, 0] = 5
    statistics = label_statistics(labels)
    assert statistics == LabelStatistics(
        by_rank=(6, 2, *[0] * 14), by_used=(0, 1, *[0] * 14), compared=4, changed=2
    )
    assert (statistics + LabelStatistics() + statistics).by_rank[:2] == (12, 4)
    assert statistics.entropy == pytest.approx(0.811278)
    assert (statistics.change_rate, statistics.label_sets) == (0.5, 1)


def test_statistics_tell_label_sets_that_are_dominated_or_still():
    labels = np.zeros((3, 2, 10, 10), np.uint8)
    labels[1, :, :, :2] = 1  # a fifth of it, which stays
    labels[2, 1, :1] = 1  # a twentieth of it, which comes
    statistics = label_statistics(labels)
    assert statistics.by_used[:2] == (1, 2)
    assert (statistics.dominated, statistics.still) == (2, 2)
    assert statistics == sum((label_statistics(view[None]) for view in labels), LabelStatistics())
    assert (LabelStatistics().entropy, LabelStatistics().change_rate) == (0, 0)


def test_the_code_for_gpus_makes_labels_of_the_same_views(moving_frames, config):
    ours, books = label_views(moving_frames[:2], "a_0", dataclasses.replace(config, device="torch"))
    theirs, others = label_views(moving_frames[:2], "a_0", config)
    assert [book.view for book in books] == [book.view for book in others]
    assert ours.shape == theirs.shape
    assert ours.dtype == np.uint8
