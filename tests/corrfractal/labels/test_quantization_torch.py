"""Labels made by PyTorch (``--device cuda``), on the CPU: the code is the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from corrfractal.labels import quantization
from corrfractal.labels.kmeans import lloyd
from corrfractal.labels.quantization import QuantizationConfig, View, fit_codebook, quantize_clip
from corrfractal.labels.quantization_torch import clip_channels

CONFIG = QuantizationConfig(fit_pixels=2048)


@pytest.mark.parametrize(
    "view",
    [
        View(selection=(0, 17, 44)),
        View(selection=(3,), basis=8),
        View(),
    ],
)
def test_channels_equal_those_of_the_compiled_path(moving_frames, view):
    frames = moving_frames[:2, :33, :47]
    ours, theirs = (
        clip_channels(torch.from_numpy(frames), view).numpy(),
        quantization.clip_channels(frames, view),
    )
    np.testing.assert_array_equal(ours[2:], theirs[2:])
    np.testing.assert_allclose(ours[:2], theirs[:2], atol=0.4)


def test_with_a_given_codebook_labels_equal_those_of_the_compiled_path(moving_frames):
    codebook = fit_codebook([moving_frames[:2]], CONFIG, seed=0)
    ours, theirs = (
        quantize_clip(moving_frames[:2], CONFIG, 0, codebook, device)[0] for device in ("cpu", None)
    )
    assert (ours == theirs).mean() > 0.99


def test_views_equal_those_of_the_compiled_path_and_the_fit_is_as_good(moving_frames):
    frames = moving_frames[:3]
    (ours, book), (theirs, other) = (
        quantize_clip(frames, CONFIG, 5, device=device) for device in ("cpu", None)
    )
    assert book.view == other.view
    np.testing.assert_allclose(book.mean, other.mean, atol=0.05)
    assert ours.shape == theirs.shape
    assert set(np.unique(ours)) == set(range(16))
    assert inertia(frames, book) < 1.1 * inertia(frames, other)


def inertia(frames, book):
    channels = (quantization.clip_channels(frames, book.view) - book.mean[:, None]) * book.scale[
        :, None
    ]
    labels = quantization.assign(
        channels, np.zeros_like(book.mean), np.ones_like(book.scale), book.centroids
    )
    return float(((channels.T - book.centroids[labels]) ** 2).sum())


def test_the_same_seed_gives_the_same_labels(moving_frames):
    a, b = (quantize_clip(moving_frames[:2], CONFIG, 3, device="cpu")[0] for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (2, 9)])
@pytest.mark.parametrize("basis", [4, 8])
def test_degenerate_clips_get_valid_labels(size, basis):
    config = replace(CONFIG, basis=basis)
    for frames in (np.zeros((2, *size, 3), np.uint8), np.full((1, *size, 3), 255, np.uint8)):
        labels, book = quantize_clip(frames, config, 0, device="cpu")
        assert labels.shape == frames.shape[:3]
        assert labels.max() < 16
        assert np.isfinite(book.centroids).all()


def test_an_empty_cluster_moves_to_the_farthest_point():
    points = torch.tensor([[0.0], [0.1], [10.0]])
    centroids = lloyd(points, torch.tensor([[0.05], [99.0]]), iterations=3)
    assert sorted(centroids[:, 0].tolist()) == pytest.approx([0.05, 10.0])
