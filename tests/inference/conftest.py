"""Tiny data sets in the layouts of DAVIS-2017, YouTube-VOS, JHMDB and VIP, and a tiny video with
its first mask."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from inference.prompts.mask_images import write_mask

FRAMES = 7


@pytest.fixture
def davis(tmp_path: Path, moving_frames: np.ndarray) -> Path:
    """Two sequences of 7 frames: ``still`` does not change, in ``moving`` two objects go with the
    picture."""
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


@pytest.fixture
def video_folder(tiny_video: Path, tmp_path: Path) -> Path:
    """Two good videos, a broken one, and a list of the good ones."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("one.mp4", "two.mp4"):
        shutil.copy(tiny_video, folder / name)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("one.mp4\n# a comment\ntwo.mp4\n")
    return folder


@pytest.fixture
def mask_folder(first_mask: Path, tmp_path: Path) -> Path:
    """A mask for each video of ``video_folder``; that of ``two.mp4`` is for frame 3."""
    folder = tmp_path / "given"
    (folder / "two").mkdir(parents=True)
    shutil.copy(first_mask, folder / "one.png")
    shutil.copy(first_mask, folder / "broken.png")
    shutil.copy(first_mask, folder / "two" / "00003.png")
    return folder


def two_objects(t: int) -> np.ndarray:
    """Two rectangles that move with the picture of ``moving_frames``, at frame t; uint8 (160,
    192)."""
    mask = np.zeros((160, 192), dtype=np.uint8)
    mask[30 - t : 60 - t, 60 - 3 * t : 85 - 3 * t] = 1
    mask[50 - t : 80 - t, 95 - 3 * t : 120 - 3 * t] = 2
    return mask


@pytest.fixture
def youtubevos(tmp_path: Path, moving_frames: np.ndarray) -> Path:
    """A video of 11 frames, every fifth annotated: object 1 from the start, object 2 from frame 5
    on."""
    root = tmp_path / "youtubevos"
    pictures, masks = (root / "valid" / kind / "0a1b2c" for kind in ("JPEGImages", "Annotations"))
    pictures.mkdir(parents=True)
    masks.mkdir(parents=True)
    for t in range(11):
        cv2.imwrite(str(pictures / f"{t:05d}.jpg"), moving_frames[t][..., ::-1])
    for t in (0, 5, 10):
        mask = two_objects(t)
        write_mask(
            masks / f"{t:05d}.png", np.where(mask == 2, np.uint8(0), mask) if t == 0 else mask
        )
    objects = {
        "1": {"category": "dog", "frames": ["00000", "00005", "00010"]},
        "2": {"category": "carousel", "frames": ["00005", "00010"]},
    }
    (root / "valid" / "meta.json").write_text(
        json.dumps({"videos": {"0a1b2c": {"objects": objects}}})
    )
    return root


@pytest.fixture
def jhmdb(tmp_path: Path, moving_frames: np.ndarray) -> Path:
    """Two videos of 5 frames, of which split 1 tests ``second``: 15 joints, one outside, that go
    with the picture."""
    from scipy.io import savemat

    root = tmp_path / "jhmdb"
    (root / "splits").mkdir(parents=True)
    (root / "splits" / "wave_test_split1.txt").write_text("first.avi 1\nsecond.avi 2\n")
    first = np.stack([np.linspace(60, 130, 15), np.linspace(40, 120, 15)])
    first[:, 14] = (230, 100)
    for name in ("first", "second"):
        pictures, joints = (
            root / kind / "wave" / name for kind in ("Rename_Images", "joint_positions")
        )
        pictures.mkdir(parents=True)
        joints.mkdir(parents=True)
        for t in range(5):
            cv2.imwrite(str(pictures / f"{t + 1:05d}.png"), moving_frames[t][..., ::-1])
        moved = first[:, :, None] - np.array([[3], [1]])[:, :, None] * np.arange(5)
        savemat(joints / "joint_positions.mat", {"pos_img": moved + 1})
    return root


@pytest.fixture
def vip(tmp_path: Path, moving_frames: np.ndarray) -> Path:
    """One video of 3 frames: hair (2) and face (13) go with the picture; a pixel does not count."""
    root = tmp_path / "vip"
    pictures, masks = root / "Images" / "videos7", root / "Annotations" / "Category_ids" / "videos7"
    for folder in (pictures, masks, root / "lists"):
        folder.mkdir(parents=True)
    (root / "lists" / "val_videos.txt").write_text("videos7\n")
    for t in range(3):
        mask = np.array([0, 2, 13], dtype=np.uint8)[two_objects(t)]
        mask[0, 0] = 255
        cv2.imwrite(str(pictures / f"{25 * t + 1:012d}.jpg"), moving_frames[t][..., ::-1])
        write_mask(masks / f"{25 * t + 1:012d}.png", mask)
    return root


@pytest.fixture
def mangle() -> Callable[[Path, str], None]:
    """Make a file or folder ``missing``, or replace a file by bytes that mean nothing
    (``damaged``)."""

    def work(path: Path, how: str) -> None:
        if how == "damaged":
            path.write_bytes(b"damaged")
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return work
