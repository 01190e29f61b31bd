from __future__ import annotations

import faiss
import numpy as np
import pytest
from reference_assign import slow_distances
from threadpoolctl import threadpool_limits

from corrfractal.common.config import digest
from corrfractal.labels.quantization import (
    QuantizationConfig,
    assign,
    clip_channels,
    fit_codebook,
    quantize_clip,
)
from pipeline.config import PipelineConfig

CONFIG = QuantizationConfig(fit_pixels=2048)


def test_assignment_is_the_nearest_centroid(moving_frames):
    labels, book = quantize_clip(moving_frames[:3], CONFIG, seed=1)
    channels = clip_channels(moving_frames[:3], book.view)
    distances = slow_distances(channels, book.mean, book.scale, book.centroids)
    chosen = distances[np.arange(labels.size), labels.ravel()]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-4, atol=1e-4)
    assert (distances.argmin(axis=1) == labels.ravel()).mean() > 0.9999


def test_a_tie_goes_to_the_lowest_label():
    centroids = np.zeros((3, 2), np.float32)
    assert not assign(
        np.ones((2, 5), np.float32), np.zeros(2, np.float32), np.ones(2, np.float32), centroids
    ).any()


@pytest.mark.parametrize("clusters", [2, 3, 15])
def test_any_number_of_clusters_and_channels_is_assigned_to_the_nearest(moving_frames, clusters):
    config = QuantizationConfig(clusters=clusters, n_patterns=3, fit_pixels=500)
    labels, book = quantize_clip(moving_frames[:1], config, seed=1)
    distances = slow_distances(
        clip_channels(moving_frames[:1], book.view), book.mean, book.scale, book.centroids
    )
    assert (distances.argmin(axis=1) == labels.ravel()).mean() > 0.9999


def test_channels_are_standardised_and_a_constant_one_is_left_out(moving_frames):
    frames = moving_frames[:2].copy()
    frames[..., 2] = 90  # no pattern in blue
    _, book = quantize_clip(
        frames, QuantizationConfig(n_patterns=9, fit_pixels=500, pattern_weight=1.0), seed=0
    )
    channels = clip_channels(frames, book.view).astype(np.float64)
    np.testing.assert_allclose(book.mean, channels.mean(axis=1), rtol=1e-4, atol=1e-4)
    deviation = channels.std(axis=1)
    np.testing.assert_allclose(book.scale[deviation > 0], 1 / deviation[deviation > 0], rtol=1e-4)
    assert np.count_nonzero(book.scale == 0) == np.count_nonzero(deviation == 0) > 0


def test_the_same_seed_gives_the_same_labels_for_any_number_of_threads(moving_frames):
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            faiss.omp_set_num_threads(threads)
            results.append(quantize_clip(moving_frames[:4], CONFIG, seed=7))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1].to_json() == results[1][1].to_json()


def test_another_seed_draws_other_patterns(moving_frames):
    selections = {quantize_clip(moving_frames[:1], CONFIG, seed)[1].selection for seed in range(4)}
    assert len(selections) == 4


def test_all_labels_of_a_photograph_are_used(moving_frames):
    labels, book = quantize_clip(moving_frames[:2], CONFIG, seed=0)
    assert labels.shape == (2, 160, 192)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == set(range(16))
    assert book.centroids.shape == (16, 8)


def degenerate_clips():
    two = np.zeros((2, 6, 6, 3), np.uint8)
    two[:, :, 3:] = 255
    noise = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3)).astype(np.uint8)
    return {
        "black": np.zeros((2, 8, 8, 3), np.uint8),
        "two colours": two,
        "noise": noise,
        "one pixel": noise[:1, :1, :1],
    }


@pytest.mark.parametrize("name", degenerate_clips())
def test_degenerate_clips_get_valid_labels(name):
    frames = degenerate_clips()[name]
    labels, book = quantize_clip(frames, CONFIG, seed=3)
    assert labels.shape == frames.shape[:3]
    assert labels.max() < 16
    assert np.isfinite(book.centroids).all()


def test_two_colours_are_told_apart():
    labels, _ = quantize_clip(
        degenerate_clips()["two colours"], QuantizationConfig(clusters=2, n_patterns=0), seed=0
    )
    assert len(np.unique(labels)) <= 2


def test_colour_only_labels_need_no_pattern(moving_frames):
    _, book = quantize_clip(
        moving_frames[:1], QuantizationConfig(n_patterns=0, fit_pixels=512), seed=0
    )
    assert book.selection == ()


def test_low_sequency_selection_draws_from_low_sequencies_only():
    config = QuantizationConfig(max_sequency=1)
    assert config.candidates() == [0, 3, 4, 15, 18, 19, 30, 33, 34]


@pytest.mark.parametrize(
    "field",
    [
        {"clusters": 17},
        {"basis": 5},
        {"n_patterns": 46},
        {"pattern_weight": 0},
        {"fit_pixels": 3},
        {"max_sequency": 4},
    ],
)
def test_a_field_out_of_range_is_named_with_its_value(field):
    name, value = next(iter(field.items()))
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        QuantizationConfig(**field)


def test_a_clip_without_pixels_is_refused():
    with pytest.raises(ValueError, match="not empty"):
        quantize_clip(np.zeros((0, 4, 4, 3), np.uint8), CONFIG, seed=0)


@pytest.mark.parametrize(
    ("switch", "channels"),
    [
        ({"n_patterns": 45, "max_sequency": None}, 47),
        ({"basis": 8, "n_patterns": 10, "max_sequency": 2}, 12),
        ({"max_sequency": 1, "n_patterns": 9}, 11),
    ],
)
def test_every_setting_gives_labels_from_the_number_of_channels_that_it_states(
    moving_frames, switch, channels
):
    config = QuantizationConfig(fit_pixels=1024, **switch)
    labels, book = quantize_clip(moving_frames[:2], config, seed=0)
    assert len(book.mean) == book.view.channels == channels
    assert len(np.unique(labels)) > 8


def test_a_global_codebook_gives_equal_labels_to_equal_pixels_of_different_clips(moving_frames):
    clips = [moving_frames[:2], moving_frames[12:14], moving_frames[:2]]
    book = fit_codebook(clips, CONFIG, seed=0)
    first, _, third = (quantize_clip(clip, CONFIG, codebook=book)[0] for clip in clips)
    np.testing.assert_array_equal(first, third)
    assert quantize_clip(clips[1], CONFIG, codebook=book)[1] is book


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clusters", 17),
        ("n_patterns", 46),
        ("basis", 5),
        ("max_sequency", 4),
        ("pattern_weight", 0),
        ("iterations", 0),
    ],
)
def test_configurations_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        QuantizationConfig(**{field: value})


def test_the_recipe_of_a_data_set_has_the_digest_of_version_0_1_0():
    """Removed switches stay in it at their fixed values; another default would change it too."""
    expected = "125389ab7929e847e36ad60f70444388b931b0feccfda126a9a9444a6a8cc4e7"
    assert digest(PipelineConfig().recipe()) == expected
