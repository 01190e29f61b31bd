"""Lab of tensors is Lab of OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from corrfractal.color import rgb_to_lab


def test_lab_equals_opencvs(photograph: np.ndarray) -> None:
    rgb = photograph[::4, ::4].astype(np.float32) / 255
    ours = rgb_to_lab(torch.from_numpy(rgb).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab), atol=0.6)  # OpenCV interpolates in tables


def test_grey_has_no_colour_and_black_is_finite() -> None:
    grey = torch.linspace(0, 1, 8).expand(1, 3, 1, 8)
    lab = rgb_to_lab(grey)
    assert lab[:, 1:].abs().max() < 0.1
    assert torch.isfinite(lab).all()
    assert abs(lab[0, 0, 0, -1].item() - 100) < 0.01
