"""Label propagation on each device: the masks of the CPU, but for ties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from corrfractal.network import kernels
from corrfractal.network.attention import Similarity
from corrfractal.network.correspondence import CorrespondenceConfig
from corrfractal.network.model import CorrFractal, CorrFractalConfig
from corrfractal.network.tracker_config import TrackerConfig

CONFIG = TrackerConfig(densities=(8.0, 4.0, 2.0))


@pytest.fixture(scope="module")
def model() -> CorrFractal:
    torch.manual_seed(2)
    similarity = Similarity(kind="cosine", temperature=0.02)  # decides, even untrained
    config = CorrFractalConfig(
        width=4,
        embedding_channels=8,
        correspondence=CorrespondenceConfig(similarity=similarity),
    )
    return CorrFractal(config).eval()


@pytest.fixture(scope="module")
def first_mask() -> np.ndarray:
    mask = np.zeros((64, 80), np.uint8)
    mask[10:30, 12:40] = 1
    mask[35:60, 45:70] = 7
    return mask


def masks(
    model: CorrFractal, device: str, frames: np.ndarray, mask: np.ndarray, config: TrackerConfig
) -> np.ndarray:
    tracker = model.to(device).tracker(frames[0], mask, config)
    return np.stack([tracker.step(frame) for frame in frames[1:]])


@pytest.mark.parametrize("soft", [False, True])
def test_masks_are_those_of_the_cpu(
    device: torch.device,
    model: CorrFractal,
    drifting_frames: np.ndarray,
    first_mask: np.ndarray,
    soft: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(CONFIG, soft=soft)
    ours = masks(model, str(device), drifting_frames, first_mask, config)
    monkeypatch.setattr(kernels, "BAND_BYTES", 1)  # other bands, so other code even on the CPU
    theirs = masks(model, "cpu", drifting_frames, first_mask, config)
    assert set(np.unique(ours)) == {0, 1, 7}
    assert (ours == theirs).mean() > 0.998


def test_bfloat16_gives_nearly_the_same_masks(
    device: torch.device, model: CorrFractal, drifting_frames: np.ndarray, first_mask: np.ndarray
) -> None:
    ours = masks(model, str(device), drifting_frames, first_mask, replace(CONFIG, precision="bf16"))
    theirs = masks(model, "cpu", drifting_frames, first_mask, CONFIG)
    assert (ours == theirs).mean() > 0.97


def test_key_points_stay_where_the_scene_puts_them(
    device: torch.device, model: CorrFractal, drifting_frames: np.ndarray
) -> None:
    """Soft labels of the CPU, and a distribution that no step loses."""
    labels = np.zeros((2, 64, 80), np.float32)
    labels[0] = 1
    labels[0, 20:40, 30:50] = 0
    labels[1, 20:40, 30:50] = 1
    soft = []
    for name in (str(device), "cpu"):
        tracker = model.to(name).label_tracker(drifting_frames[0], labels, CONFIG)
        soft.append([tracker.step_labels(frame) for frame in drifting_frames[1:]][-1])
    np.testing.assert_allclose(soft[0], soft[1], atol=2e-3)
    np.testing.assert_allclose(soft[0].sum(axis=0), 1, atol=1e-3)
