"""Properties of the rendered sample set."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.demo.render import render_evaluation_set, render_training_videos
from corrfractal.video import open_video


@pytest.fixture(scope="module")
def evaluation_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_evaluation_set(tmp_path_factory.mktemp("evaluation"))


def masks_of(root: Path, name: str) -> list[np.ndarray]:
    return [
        np.array(Image.open(path))
        for path in sorted((root / "Annotations" / "480p" / name).glob("*.png"))
    ]


def names_of(root: Path) -> list[str]:
    return (root / "ImageSets" / "2017" / "val.txt").read_text().split()


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_training_videos_are_playable_and_of_the_size_asked_for(tmp_path: Path) -> None:
    (path,) = render_training_videos(tmp_path, count=1, frames=6, size=(64, 96))
    video = open_video(path)
    images = [frame.image for frame in video.frames()]
    assert np.stack(images).shape == (6, 64, 96, 3)
    assert path.name == "train-00.mp4"


def test_the_evaluation_set_has_the_layout_of_davis_2017(evaluation_set: Path) -> None:
    assert len(names_of(evaluation_set)) == 2
    for name in names_of(evaluation_set):
        images = sorted((evaluation_set / "JPEGImages" / "480p" / name).iterdir())
        masks = sorted((evaluation_set / "Annotations" / "480p" / name).iterdir())
        assert [path.name for path in images[:2]] == ["00000.jpg", "00001.jpg"]
        assert [path.stem for path in images] == [path.stem for path in masks]
        with Image.open(masks[0]) as mask, Image.open(images[0]) as image:
            assert mask.mode == "P"
            assert mask.size == image.size == (160, 128)
        assert (evaluation_set / f"{name}.mp4").stat().st_size > 0


def test_every_object_is_complete_at_the_start_and_the_objects_of_a_pair_hide_each_other(
    evaluation_set: Path,
) -> None:
    sizes = [
        np.bincount(mask.ravel(), minlength=3)
        for mask in masks_of(evaluation_set, names_of(evaluation_set)[1])
    ]
    assert sizes[0][1] > 800
    assert sizes[0][2] > 800
    behind = np.array([size[1] for size in sizes])
    assert behind[10] < 0.9 * (behind[0] + behind[-1]) / 2


def test_copying_the_first_mask_fails_by_the_end(evaluation_set: Path) -> None:
    for name in names_of(evaluation_set):
        masks = masks_of(evaluation_set, name)
        for k in range(1, masks[0].max() + 1):
            assert intersection_over_union(masks[0] == k, masks[-1] == k) < 0.4


def test_consecutive_masks_overlap_so_that_objects_can_be_followed(evaluation_set: Path) -> None:
    for name in names_of(evaluation_set):
        masks = masks_of(evaluation_set, name)
        for before, after in pairwise(masks):
            for k in range(1, masks[0].max() + 1):
                assert intersection_over_union(before == k, after == k) > 0.6


def test_the_seed_alone_decides_the_pictures(tmp_path: Path) -> None:
    folders = [
        render_evaluation_set(tmp_path / n, 1, 2, (64, 80), seed)
        for n, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    a, b, c = (folder / "JPEGImages" / "480p" / "sample-00" / "00001.jpg" for folder in folders)
    assert a.read_bytes() == b.read_bytes() != c.read_bytes()


@pytest.mark.parametrize("size", [(63, 80), (64, 60), (64, 160)])
def test_a_size_that_cannot_be_drawn_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="size"):
        render_training_videos(tmp_path, count=1, frames=2, size=size)
