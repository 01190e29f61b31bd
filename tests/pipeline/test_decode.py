from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from corrfractal.errors import VideoError
from corrfractal.video import open_video
from pipeline.config import ClipConfig
from pipeline.decode import decode_clips


def test_clips_hold_the_frames_of_their_indices(videos, config):
    whole = [frame.image for frame in open_video(videos / "sub" / "long.mkv").frames()]
    config = dataclasses.replace(config, size=96, clip=ClipConfig(hop=3))
    clips = list(decode_clips(open_video(videos / "sub" / "long.mkv"), config))
    assert [clip.number for clip in clips] == list(range(len(clips)))
    assert len(clips) == 4
    for clip in clips:
        assert clip.frames.shape == (8, 96, 96, 3)
        for image, index in zip(clip.frames, clip.indices, strict=True):
            assert abs(image.mean() - whole[index].mean()) < 1


def test_clips_before_the_cut_are_given_and_then_the_cut_is_told(videos, config):
    clips = []
    with pytest.raises(VideoError, match="cut short") as caught:
        clips.extend(decode_clips(open_video(videos / "cut.mkv", "pyav"), config))
    assert len(clips) == 1
    assert caught.value.frame is not None
    assert caught.value.frame > clips[0].indices[-1]


def test_a_short_video_has_no_clips_and_no_fault(videos, config):
    assert list(decode_clips(open_video(videos / "short.mp4"), config)) == []


def test_times_are_those_of_the_frames(videos, config):
    clip = next(decode_clips(open_video(videos / "good.mp4"), config))
    np.testing.assert_allclose(clip.seconds, np.array(clip.indices) / 24, atol=1e-3)
