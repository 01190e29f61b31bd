from __future__ import annotations

import dataclasses
import itertools
import math

import pytest

from pipeline.config import PipelineConfig
from pipeline.discover.segments import cut_source, group_segments
from pipeline.discover.sources import Source

CONFIG = PipelineConfig(videos_per_shard=3)


def video(name: str, seconds: float, size: int = 10**9) -> Source:
    return Source(uri=name, path=f"/x/{name}", sha256="ab" * 32, bytes=size, seconds=seconds)


@pytest.mark.parametrize(
    ("seconds", "count"), [(0, 1), (3, 1), (899, 1), (901, 2), (1200, 2), (7200, 12)]
)
def test_segments_follow_one_another_and_the_last_is_open_ended(seconds, count):
    segments = cut_source(video("a.mp4", seconds), CONFIG)
    assert len(segments) == count
    assert segments[0].start == 0
    assert segments[-1].stop == math.inf
    assert all(a.stop == b.start for a, b in itertools.pairwise(segments))
    assert [(s.number, s.count) for s in segments] == [(i, count) for i in range(count)]


def test_a_header_that_promises_years_is_not_believed():
    assert len(cut_source(video("a.mp4", 1e9, size=10**6), CONFIG)) == 10


def test_keys_of_all_segments_differ_and_those_of_a_short_video_are_plain():
    long, short = cut_source(video("a.mp4", 7200), CONFIG), cut_source(video("b.mp4", 3), CONFIG)
    keys = [segment.clip_key(clip) for segment in long for clip in range(3)]
    assert len(set(keys)) == len(keys) == 36
    assert short[0].clip_key(2) == f"{short[0].source.id}_00002"


def test_a_shard_holds_a_bounded_number_of_videos_and_of_seconds():
    sources = [
        video(f"{i}.mp4", seconds)
        for i, seconds in enumerate([10, 10, 10, 10, 500, 95, 10, 2400, 10])
    ]
    groups = list(group_segments(sources, CONFIG))
    assert [segment for group in groups for segment in group] == [
        segment for source in sources for segment in cut_source(source, CONFIG)
    ]
    assert [len(group) for group in groups] == [3, 2, 2, 1, 1, 1, 1, 1]


def test_one_video_of_two_hours_is_work_for_twelve():
    assert len(list(group_segments([video("a.mp4", 7200)], PipelineConfig()))) == 12


def test_everything_that_decides_samples_is_in_the_facts():
    facts = {
        str(segment.facts())
        for config in (CONFIG, dataclasses.replace(CONFIG, segment_seconds=300))
        for segment in cut_source(video("a.mp4", 1200), config)
    }
    assert len(facts) == 2 + 4
