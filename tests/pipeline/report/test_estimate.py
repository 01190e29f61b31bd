"""An estimate is made from pieces of a few videos, writes nothing, and is close to what the build
then takes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from corrfractal.common.errors import CallError, CorrFractalError, NotFoundError
from corrfractal.shards.manifest import load_manifest
from corrfractal.video import write_video
from pipeline.discover.sources import find_sources
from pipeline.discover.work_plan import make_plan
from pipeline.report import estimate_report
from pipeline.report.build_result import PrecomputeResult
from pipeline.report.estimate import estimate_build
from pipeline.report.sample_run import PIECE_SECONDS


@pytest.fixture(scope="module")
def swaying(tmp_path_factory, swaying_frames):
    """Six videos of 2 to 4.5 seconds."""
    folder = tmp_path_factory.mktemp("swaying")
    for number in range(6):
        write_video(folder / f"{number}.mp4", swaying_frames(48 + 12 * number), fps=24)
    return folder


@pytest.fixture(scope="module")
def estimate(swaying, config):
    return estimate_build([str(swaying)], config, pilots=3, seed=0)


def stored(**changed):
    """What a run made that stored 10 clips of 8 frames in all."""
    counts = dict.fromkeys(("shards", "made", "sampled", "quarantined", "rejected"), 1)
    result = PrecomputeResult(
        digest="",
        samples=10,
        bytes=1000,
        sources=2,
        frames=80,
        seconds=1.0,
        core_hours=0.5,
        worker_mb=200.0,
        **counts,
    )
    return dataclasses.replace(result, **changed)


def test_clips_of_intact_videos_are_estimated_exactly(estimate, swaying, config):
    clips = sum(((48 + 12 * n - 1) * 7.5 / 24 + 1.05) // 8 for n in range(6))
    assert (estimate.sources, estimate.pilots, estimate.lost, estimate.clips) == (
        6,
        3,
        0,
        clips,
    )
    plan = make_plan(find_sources([str(swaying)]), config, {})
    assert estimate.shards == len(plan.shards)
    assert estimate.source_bytes == sum(path.stat().st_size for path in swaying.iterdir())


def test_hours_are_those_of_the_stages_and_the_longest_is_the_bottleneck(estimate):
    assert estimate.core_hours == pytest.approx(sum(estimate.stages.values()))
    assert estimate.stages[estimate.bottleneck] == max(estimate.stages.values()) > 0
    assert estimate.hours(1) == pytest.approx(estimate.core_hours)
    three = dataclasses.replace(estimate, shards=3)
    # Three shards are two rounds
    assert three.hours(2) == pytest.approx(estimate.core_hours * 2 / 3)
    assert three.hours(100) == pytest.approx(estimate.core_hours / 3)


def test_a_sample_stands_for_a_larger_set_of_longer_videos(swaying, config, estimate):
    larger = estimate_build([str(swaying)], config, pilots=3, seed=0, videos=6000, seconds=32.5)
    assert larger.sources == 6000
    assert larger.source_bytes == pytest.approx(10000 * estimate.source_bytes, rel=0.01)
    # A longer one wastes less at its end
    assert larger.clips == pytest.approx(10000 * estimate.clips, rel=0.25)


def test_a_piece_of_a_long_video_is_run_and_the_complete_video_estimated(
    tmp_path, swaying_frames, config
):
    write_video(tmp_path / "long.mp4", swaying_frames(24 * 40), fps=24)
    estimate = estimate_build([str(tmp_path / "long.mp4")], config)
    assert PIECE_SECONDS == 10
    assert estimate.clips == pytest.approx(37, abs=4)


def test_damaged_videos_and_other_files_count_as_lost(master, config, made_shards):
    estimate = estimate_build([str(master)], config)
    statistics = load_manifest(made_shards).statistics
    assert (estimate.sources, estimate.lost) == (
        statistics.sources,
        statistics.quarantined / statistics.sources,
    )
    assert estimate.clips == pytest.approx(statistics.samples, abs=1)
    assert estimate.bytes == pytest.approx(statistics.bytes, rel=0.25)


def test_nothing_but_text_gives_no_estimate(tmp_path, config):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(
        CorrFractalError, match=r"none of the 1 videos tried gave a clip.*text\.mp4"
    ):
        estimate_build([str(tmp_path / "text.mp4")], config)


def test_a_saved_estimate_is_loaded_for_its_configuration_only(estimate, tmp_path, config):
    path = tmp_path / "estimate.json"
    estimate_report.save(estimate, path)
    assert estimate_report.load(path, config.recipe()) == estimate
    with pytest.raises(CallError, match="another configuration"):
        estimate_report.load(path, dataclasses.replace(config, seed=1).recipe())
    path.write_text(json.dumps({"clips": 1}))
    with pytest.raises(CallError, match="is no estimate"):
        estimate_report.load(path, config.recipe())
    with pytest.raises(NotFoundError, match="no such estimate"):
        estimate_report.load(tmp_path / "gone.json", config.recipe())


def test_errors_are_relative_to_the_build_and_hours_to_its_built_part(estimate):
    estimate = dataclasses.replace(
        estimate, sources=2, clips=12, frames=96, bytes=900, core_hours=0.6, worker_mb=250.0
    )
    errors = {one.name: round(one.error, 3) for one in estimate_report.compare(estimate, stored())}
    assert list(errors.values()) == [0, 0.2, -0.1, 0.2, 0.25]
    half = {one.name: one.estimated for one in estimate_report.compare(estimate, stored(frames=40))}
    assert half["core-hours"] == pytest.approx(0.3)


def test_the_text_has_units_that_people_read(estimate):
    large = dataclasses.replace(
        estimate, bytes=15_123_000_000_000, core_hours=2800.0,
        stages={"label": 2100.0, "decode": 700.0},
        bottleneck="label", worker_mb=345.0, shards=10**6,
    )  # fmt: skip
    text = "\n".join(estimate_report.lines(large, workers=28))
    assert "15.1 TB" in text
    assert "4.17 days with 28 workers" in text
    assert "345 MB a worker, 9.66 GB with 28 workers" in text
    assert "label (label 75%, decode 25%)" in text


def test_estimating_leaves_the_folder_as_it_was(swaying, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(Path(swaying).iterdir())
    estimate_build([str(swaying)], config, pilots=1)
    assert list(tmp_path.iterdir()) == []
    assert sorted(Path(swaying).iterdir()) == before
