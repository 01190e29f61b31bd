from __future__ import annotations

import dataclasses
import itertools
import math

import pytest

from pipeline.config import PipelineConfig
from pipeline.discover.segments import count_segments, cut_source, group_segments, needs_length
from pipeline.discover.source_table import Source
from pipeline.discover.sources import source_id

CONFIG = PipelineConfig(videos_per_shard=3)


SHA256 = "ab" * 32


def video(name: str, size: int = 10**9) -> Source:
    return Source(uri=name, path=f"/x/{name}", bytes=size)


def cut(name: str, seconds: float, config: PipelineConfig = CONFIG, size: int = 10**9):
    source = video(name, size)
    return cut_source(source, count_segments(source, seconds, config), config)


@pytest.mark.parametrize(
    ("seconds", "count"), [(0, 1), (3, 1), (899, 1), (901, 2), (1200, 2), (7200, 12)]
)
def test_segments_follow_one_another_and_the_last_is_open_ended(seconds, count):
    segments = cut("a.mp4", seconds)
    assert len(segments) == count
    assert segments[0].start == 0
    assert segments[-1].stop == math.inf
    assert all(a.stop == b.start for a, b in itertools.pairwise(segments))
    assert [(s.number, s.count) for s in segments] == [(i, count) for i in range(count)]


def test_a_header_that_promises_years_is_not_believed():
    assert len(cut("a.mp4", 1e9, size=10**6)) == 10


def test_keys_of_all_segments_differ_and_those_of_a_short_video_are_plain():
    long = cut("a.mp4", 7200)
    short = cut("b.mp4", 3)
    keys = [segment.clip_key(SHA256, clip) for segment in long for clip in range(3)]
    assert len(set(keys)) == len(keys) == 36
    assert short[0].clip_key(SHA256, 2) == f"{source_id('b.mp4', SHA256)}_00002"


def grouped(sources: list[Source], counts: list[int], config: PipelineConfig = CONFIG):
    return [group.segments(sources, config) for group in group_segments(sources, counts, config)]


def test_short_videos_share_shards_and_each_segment_of_a_long_one_is_a_shard():
    sources = [video(f"{number:02}.mp4", size=10**6) for number in range(30)]
    counts = [1] * 30
    counts[7] = 4
    groups = grouped(sources, counts)
    names = [segment.name for group in groups for segment in group]
    assert len(names) == len(set(names)) == 29 + 4
    assert [group[0].name for group in groups if group[0].count > 1] == [
        f"07.mp4#{number}" for number in range(4)
    ]
    assert max(len(group) for group in groups) <= 2 * CONFIG.videos_per_shard
    assert len(groups) < 25


def test_groups_are_in_the_order_of_their_first_segments():
    sources = [video(f"{number:02}.mp4", size=10**6) for number in range(12)]
    groups = grouped(sources, [1, 3] * 6)
    first = [(group[0].source.uri, group[0].number) for group in groups]
    assert first == sorted(first)


def test_one_video_of_two_hours_is_work_for_twelve():
    source = video("a.mp4")
    config = PipelineConfig()
    count = count_segments(source, 7200, config)
    assert len(grouped([source], [count], config)) == 12


def test_only_files_that_may_be_longer_than_a_segment_need_their_header_read():
    config = PipelineConfig(segment_seconds=600)
    assert not needs_length(video("short.mp4", size=20 * 10**6), config)
    assert needs_length(video("long.mp4", size=40 * 10**6), config)
    folder = dataclasses.replace(video("frames"), files=24 * 1200)
    assert not needs_length(folder, config)
    assert count_segments(folder, 0.0, config) == 2


def test_everything_that_decides_samples_is_in_the_identity():
    identities = {
        str(segment.identity())
        for config in (CONFIG, dataclasses.replace(CONFIG, segment_seconds=300))
        for segment in cut("a.mp4", 1200, config)
    }
    assert len(identities) == 2 + 4
