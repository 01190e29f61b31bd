from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive_clips import clip_frames

from pipeline.config import ClipConfig
from pipeline.sample.clips import ClipCutter, sampled_frames

CONFIG = ClipConfig()


def test_the_gap_is_four_frames_at_thirty_per_second():
    assert sampled_frames(np.arange(60) / 30, 7.5).tolist() == list(range(0, 60, 4))


@pytest.mark.parametrize("fps", [15, 24, 25, 29.97, 50, 60])
def test_clips_last_as_long_whatever_the_frame_rate(fps):
    times = np.arange(int(4 * fps)) / fps
    clips = clip_frames(times, CONFIG)
    assert len(clips) == 3
    for clip in clips:
        assert times[clip[-1]] - times[clip[0]] == pytest.approx(7 / 7.5, abs=1 / fps)


def test_times_rounded_to_milliseconds_cost_no_frame():
    assert len(clip_frames((np.arange(15) / 15).round(4), CONFIG)) == 1


def test_a_slow_video_gives_all_its_frames():
    assert clip_frames(np.arange(8) / 3, CONFIG) == [tuple(range(8))]


def test_no_clip_spans_a_gap():
    times = np.concatenate([np.arange(40), np.arange(40, 80) + 30]) / 30
    clips = clip_frames(times, CONFIG)
    assert [(clip[0] < 40) == (clip[-1] < 40) for clip in clips] == [True, True]


def test_a_short_video_gives_no_clip():
    assert clip_frames(np.arange(10) / 30, CONFIG) == []
    assert clip_frames(np.zeros(1), CONFIG) == []
    assert clip_frames(np.zeros(0), CONFIG) == []


def test_clips_overlap_by_frames_minus_hop():
    clips = clip_frames(np.arange(16) / 7.5, ClipConfig(hop=4))
    assert [clip[0] for clip in clips] == [0, 4, 8]


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=200), st.integers(1, 12))
def test_every_clip_is_complete_ascending_and_without_gap(gaps, hop):
    times = np.cumsum(gaps)
    config = ClipConfig(hop=hop)
    for clip in clip_frames(times, config):
        assert len(clip) == config.frames
        assert (np.diff(clip) > 0).all()
        assert (np.diff(times[list(clip)]) <= config.max_gap).all()


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=200), st.integers(1, 12))
def test_a_stream_is_cut_as_the_whole_would_be(gaps, hop):
    times = np.cumsum(gaps)
    config = ClipConfig(hop=hop)
    cutter = ClipCutter[int](config)
    streamed = [
        cutter.add(int(index), float(times[index])) for index in sampled_frames(times, config.fps)
    ]
    assert [tuple(clip) for clip in streamed if clip is not None] == clip_frames(times, config)


def test_a_new_shot_starts_a_new_clip():
    cutter = ClipCutter[int](ClipConfig(frames=3, hop=4))
    clips = [cutter.add(t, t / 7.5, starts_shot=t in (2, 9)) for t in range(14)]
    assert [clip for clip in clips if clip is not None] == [[2, 3, 4], [6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize(
    "field",
    [
        {"frames": 1},
        {"fps": 0},
        {"hop": 0},
        {"max_gap": 0.1},
        {"cut_threshold": -1},
        {"min_motion": 300},
    ],
)
def test_a_field_out_of_range_is_named(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        ClipConfig(**field)
