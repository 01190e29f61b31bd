from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from corrfractal.common.errors import VideoError
from corrfractal.video import open_video, resize_area, write_video
from pipeline.config import ClipConfig
from pipeline.sample.decode import Tally, decode_clips


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
    with pytest.raises(VideoError, match="damaged data: File ended prematurely") as caught:
        clips.extend(decode_clips(open_video(videos / "cut.mkv", "pyav"), config))
    assert len(clips) == 1
    assert caught.value.frame is not None
    assert caught.value.frame > clips[0].indices[-1]


def test_a_short_video_has_no_clips_and_no_fault(videos, config):
    assert list(decode_clips(open_video(videos / "short.mp4"), config)) == []


def test_times_are_those_of_the_frames(videos, config):
    clip = next(decode_clips(open_video(videos / "good.mp4"), config))
    np.testing.assert_allclose(clip.seconds, np.array(clip.indices) / 24, atol=1e-3)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_segments_hold_the_frames_that_a_full_read_has_there(
    tmp_path, swaying_frames, config, decoder
):
    write_video(tmp_path / "long.mp4", swaying_frames(240), fps=24)
    whole = {
        frame.index: frame.image for frame in open_video(tmp_path / "long.mp4", decoder).frames()
    }
    config = dataclasses.replace(config, size=160)
    seen = []
    for start, stop in [(0.0, 3.0), (3.0, 6.0), (6.0, math.inf)]:
        for clip in decode_clips(open_video(tmp_path / "long.mp4", decoder), config, start, stop):
            assert start <= clip.seconds[0] <= clip.seconds[-1] < stop
            for index, image in zip(clip.indices, clip.frames, strict=True):
                np.testing.assert_array_equal(image, resize_area(whole[index], 160, 160))
            seen.append(clip.indices[0])
    assert len(seen) == 2 + 2 + 3
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    "name", ["cotracker_cat.mp4", "media3_vp9_642x642.webm", "decord_flipping_a_pancake.mkv"]
)
def test_a_seek_in_a_real_video_leads_to_the_frames_of_a_full_read(data_dir, name):
    video = open_video(data_dir / "videos" / name, "decord")
    wanted = list(range(video.info.frames // 2, video.info.frames, 7))
    whole = {frame.index: frame.image for frame in video.frames()}
    for frame in video.frames(wanted):
        np.testing.assert_array_equal(frame.image, whole[frame.index])


def test_damage_belongs_to_its_segment(data_dir, config):
    path = data_dir / "odd_videos" / "derived_bitflips.mp4"
    video = open_video(path, "pyav")
    damaged = video.times()[-1]
    assert list(decode_clips(video, config, 0.0, damaged - 0.2))
    for start in (damaged - 0.1, damaged + 5):
        with pytest.raises(VideoError, match="damaged data"):
            list(decode_clips(video, config, start, start + 5))


def test_clips_in_which_nothing_moves_are_left_out_and_counted(tmp_path, swaying_frames, config):
    still = [swaying_frames(1)[0]] * 30
    write_video(tmp_path / "v.mp4", [*still, *swaying_frames(30)], fps=24)
    tally = Tally()
    config = dataclasses.replace(config, clip=ClipConfig(min_motion=1.0))
    clips = list(decode_clips(open_video(tmp_path / "v.mp4"), config, tally=tally))
    assert tally.static == 1
    assert [clip.number for clip in clips] == [0]
    assert clips[0].indices[0] > 15
