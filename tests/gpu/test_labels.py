"""Pseudo-labels by PyTorch on each device."""

from __future__ import annotations

import numpy as np
import torch

from corrfractal.labels.quantization import QuantizationConfig, quantize_clip
from corrfractal.labels.quantization_torch import clip_channels

CONFIG = QuantizationConfig(fit_pixels=2048)


def test_labels_are_those_of_the_cpu_but_for_ties(
    device: torch.device, drifting_frames: np.ndarray
) -> None:
    ours, book = quantize_clip(drifting_frames, CONFIG, 3, device=str(device))
    theirs, other = quantize_clip(drifting_frames, CONFIG, 3, device="cpu")
    assert ours.shape == drifting_frames.shape[:3]
    assert ours.dtype == np.uint8
    assert book.view == other.view
    np.testing.assert_allclose(book.mean, other.mean, atol=1e-3)
    assert (ours == theirs).mean() > 0.98
    assert set(np.unique(ours)) == set(range(16))


def test_a_label_is_the_nearest_centroid(device: torch.device, drifting_frames: np.ndarray) -> None:
    """In float64, from the channels that the CPU computes."""
    labels, book = quantize_clip(drifting_frames, CONFIG, 3, device=str(device))
    channels = clip_channels(torch.from_numpy(drifting_frames), book.view).double().numpy()
    points = (channels - book.mean[:, None]) * book.scale[:, None]
    distances = np.square(points[:, None] - book.centroids.T[:, :, None]).sum(axis=0)
    assert (labels.ravel() == distances.argmin(axis=0)).mean() > 0.999


def test_the_same_seed_gives_the_same_labels(
    device: torch.device, drifting_frames: np.ndarray
) -> None:
    first, second = (
        quantize_clip(drifting_frames, CONFIG, 3, device=str(device))[0] for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
