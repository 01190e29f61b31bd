from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from corrfractal.video import open_video, write_video
from pipeline.config import PipelineConfig
from pipeline.sample.clips import sampled_frames
from pipeline.sample.cuts import CutDetector
from pipeline.sample.decode import Tally, decode_clips


def shots_of(images, threshold=1.0):
    detector = CutDetector(threshold)
    return [t for t, image in enumerate(images) if detector.starts_shot(image)]


def samples(path, count=8):
    video = open_video(path)
    wanted = sampled_frames(video.times(), 7.5)[:count].tolist()
    return [
        cv2.resize(frame.image, (256, 256), interpolation=cv2.INTER_AREA)
        for frame in video.frames(wanted)
    ]


def test_joins_of_real_clips_are_cuts_and_nothing_else_is(data_dir):
    clips = [samples(path) for path in sorted((data_dir / "train_videos").iterdir())[::3]]
    joined = list(itertools.chain(*clips))
    assert shots_of(joined) == list(itertools.accumulate(len(clip) for clip in clips[:-1]))


def test_a_moving_picture_has_no_cut(swaying_frames):
    assert shots_of(swaying_frames(60)[::3]) == []


def test_a_threshold_of_zero_looks_for_none(moving_frames, photograph):
    assert shots_of([moving_frames[0], 255 - moving_frames[0]], threshold=0) == []
    assert shots_of([moving_frames[0], 255 - moving_frames[0]]) == [1]


def test_no_clip_spans_a_cut(tmp_path, swaying_frames):
    frames = swaying_frames(40)
    write_video(tmp_path / "two.mp4", [*frames, *(255 - frame for frame in frames)], fps=24)
    tally = Tally()
    clips = list(
        decode_clips(open_video(tmp_path / "two.mp4"), PipelineConfig(size=64), tally=tally)
    )
    assert tally.cuts == 1
    assert [(clip.indices[0] < 40, clip.indices[-1] < 40) for clip in clips] == [
        (True, True),
        (False, False),
    ]


@pytest.mark.parametrize("size", [16, 64, 300])
def test_pictures_of_any_size_are_compared(size):
    rng = np.random.default_rng(size)
    dark, light = (rng.integers(low, low + 60, (size, size, 3), dtype=np.uint8) for low in (0, 180))
    assert shots_of([dark, dark, light, light]) == [2]
