from __future__ import annotations

import cv2
import numpy as np
import pytest
from reference_damage import block_surplus as slow_surplus

from corrfractal.damage import BlockWatch, block_surplus
from corrfractal.video import open_video


@pytest.mark.parametrize(("height", "width"), [(96, 128), (101, 77), (16, 16), (33, 500)])
def test_the_surplus_equals_the_slow_count(height, width):
    rng = np.random.default_rng(height)
    image = cv2.resize(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8), (width, height))
    image[16:48, 16:32] = 255
    assert block_surplus(image) == pytest.approx(slow_surplus(image))


def test_squares_on_the_grid_are_damage_and_squares_beside_it_are_not(photograph):
    rng = np.random.default_rng(0)
    for offset, damaged in ((0, True), (5, False)):
        watch = BlockWatch()
        assert not any(watch.is_damaged(photograph[:400, t : t + 600]) for t in range(0, 40, 4))
        image = photograph[:400, :600].copy()
        for row, column in rng.integers(1, 20, (40, 2)):
            y, x = 16 * row + offset, 16 * column + offset
            image[y : y + 16, x : x + 16] = rng.integers(0, 256, 3)
        assert watch.is_damaged(image) == damaged


def test_no_good_video_is_accused(data_dir):
    for path in sorted((data_dir / "train_videos").iterdir())[::5]:
        watch = BlockWatch()
        video = open_video(path)
        assert not any(watch.is_damaged(frame.image) for frame in video.frames(range(0, video.info.frames, 4))), path


def test_the_seam_of_a_split_screen_that_passes_is_no_damage(photograph):
    watch = BlockWatch()
    for t in range(40):
        image = photograph[:400, :600].copy()
        image[:, 5 * t + 100 :] = 255 - image[:, 5 * t + 100 :]
        assert not watch.is_damaged(image)
