"""The colour-only baseline: the same tracker, patches of Lab instead of a trained embedding."""

from __future__ import annotations

import numpy as np
import torch

from corrfractal.labels.color import PATCH_STRIDE as STRIDE
from corrfractal.network.tracker import TrackerConfig
from inference.color_baseline import LabPatches, colour_matching


def test_a_patch_holds_the_colours_of_nine_cells() -> None:
    lab = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    patches = LabPatches()(lab)
    assert patches.shape == (1, 28, 20, 24)
    torch.testing.assert_close(patches[:, 12:15], lab)
    torch.testing.assert_close(patches[:, :3, STRIDE:, STRIDE:], lab[..., :-STRIDE, :-STRIDE])


def test_it_tracks_a_mask_that_moves_with_the_picture(moving_frames: np.ndarray) -> None:
    first = np.zeros((160, 192), dtype=np.uint8)
    first[40:80, 80:130] = 5
    tracker = colour_matching().tracker(moving_frames[0], first, TrackerConfig())
    for t in range(1, 4):
        mask = tracker.step(moving_frames[t])
    truth = np.zeros_like(first)
    truth[40 - 3 : 80 - 3, 80 - 9 : 130 - 9] = 5
    tracked = ((mask == 5) & (truth == 5)).sum() / ((mask == 5) | (truth == 5)).sum()
    copied = ((first == 5) & (truth == 5)).sum() / ((first == 5) | (truth == 5)).sum()
    assert tracked > 0.8 > copied
