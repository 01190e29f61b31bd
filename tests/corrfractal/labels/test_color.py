"""Lab of tensors agrees with OpenCV, and the compiled loop agrees with the formula."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from corrfractal.labels.color import rgb_to_lab
from corrfractal.labels.loops import lab_ab


def test_lab_equals_opencvs(photograph: np.ndarray) -> None:
    rgb = photograph[::4, ::4].astype(np.float32) / 255
    ours = rgb_to_lab(torch.from_numpy(rgb).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    # OpenCV interpolates in tables
    np.testing.assert_allclose(ours, cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab), atol=0.6)


def test_grey_has_no_colour_and_black_is_finite() -> None:
    grey = torch.linspace(0, 1, 8).expand(1, 3, 1, 8)
    lab = rgb_to_lab(grey)
    assert lab[:, 1:].abs().max() < 0.1
    assert torch.isfinite(lab).all()
    assert abs(lab[0, 0, 0, -1].item() - 100) < 0.01


def test_the_compiled_axes_equal_the_formulas_on_every_grey_and_on_random_colours() -> None:
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    colours = np.concatenate(
        (greys, np.random.default_rng(0).integers(0, 256, (5001, 3), dtype=np.uint8))
    )
    out = np.empty((2, len(colours)), np.float32)
    lab_ab(colours, out)
    slow = rgb_to_lab(torch.from_numpy(colours.T.copy()).double()[None, :, None] / 255)[0, 1:, 0]
    np.testing.assert_allclose(out, slow, atol=1e-3)
