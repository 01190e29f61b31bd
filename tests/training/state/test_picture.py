"""The picture of a training run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from corrfractal import CorrFractal, CorrFractalConfig
from training.data.reading import Batch
from training.state.picture import COLUMNS, pca_colors, save_picture

CONFIG = CorrFractalConfig(width=4, embedding_channels=8)


def batch_of(photograph: np.ndarray) -> Batch:
    """Five samples of a reference and a target, 128 x 128, that moved by two pixels."""
    frames = [[photograph[20 * i : 20 * i + 128, x : x + 128] for x in (50, 52)] for i in range(5)]
    seen = torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3)
    return Batch(frames=seen, labels=seen[:, :, 0] // 16, keep=torch.ones(5, 3), keys=("clip",) * 5)


def test_the_picture_shows_both_modules_and_leaves_the_network_as_it_was(
    photograph: np.ndarray, tmp_path: Path
) -> None:
    for reading, columns in (("literal", len(COLUMNS)), ("off", len(COLUMNS) - 1)):
        model = CorrFractal(replace(CONFIG, appearance=reading)).train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save_picture(tmp_path / f"{reading}.png", model, batch_of(photograph), (4.0, 8.0))
        after = model.state_dict()
        assert model.training
        assert all(torch.equal(before[name], after[name]) for name in before)
        with Image.open(tmp_path / f"{reading}.png") as image:
            assert image.width == columns * 130 - 2
            picture = np.array(image)
        # The first reference
        np.testing.assert_array_equal(picture[38:166, :128], photograph[:128, 50:178])


def test_equal_embeddings_have_equal_colours_and_different_ones_different() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(8, 6, 7)).astype(np.float32)
    colors = pca_colors(np.stack([first, first[:, :, ::-1]]))
    np.testing.assert_array_equal(colors[0], colors[1][:, ::-1])
    assert len(np.unique(colors[0].reshape(-1, 3), axis=0)) > 30
    assert pca_colors(first[None, :2]).shape == (1, 6, 7, 3)
