"""A tiny data set in the layout of DAVIS-2017, and a tiny video with its first mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from inference.masks import write_mask

FRAMES = 7


@pytest.fixture
def davis(tmp_path: Path, moving_frames: np.ndarray) -> Path:
    """Two sequences of 7 frames: ``still`` does not change, in ``moving`` two objects go with the picture."""
    root = tmp_path / "davis"
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("still\nmoving\n")
    for name in ("still", "moving"):
        pictures, masks = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
        pictures.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t in range(FRAMES):
            shift = t if name == "moving" else 0
            cv2.imwrite(str(pictures / f"{t:05d}.jpg"), moving_frames[shift][..., ::-1])
            write_mask(masks / f"{t:05d}.png", two_objects(shift))
    return root


@pytest.fixture
def first_mask(tmp_path: Path) -> Path:
    """Mask of the first frame of ``tiny_video`` as a palette PNG, with the objects 1 and 3."""
    path = tmp_path / "first.png"
    mask = two_objects(0)
    mask[mask == 2] = 3
    write_mask(path, mask)
    return path


def two_objects(t: int) -> np.ndarray:
    """Two rectangles that stay with the picture of ``moving_frames`` at frame t, uint8 (160, 192)."""
    mask = np.zeros((160, 192), dtype=np.uint8)
    mask[30 - t : 60 - t, 60 - 3 * t : 85 - 3 * t] = 1
    mask[50 - t : 80 - t, 95 - 3 * t : 120 - 3 * t] = 2
    return mask
