"""A plan is told from pieces of a few videos, writes nothing, and comes near to what the build then
is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from corrfractal.common.errors import CallError, CorrFractalError, NotFoundError
from corrfractal.shards.manifest import load_manifest
from corrfractal.video import write_video
from pipeline.report import estimate as prediction
from pipeline.report.sample_run import PIECE_SECONDS, plan
from pipeline.run import PrecomputeResult


@pytest.fixture(scope="module")
def swaying(tmp_path_factory, swaying_frames):
    """Six videos of 2 to 4.5 seconds."""
    folder = tmp_path_factory.mktemp("swaying")
    for number in range(6):
        write_video(folder / f"{number}.mp4", swaying_frames(48 + 12 * number), fps=24)
    return folder


@pytest.fixture(scope="module")
def predicted(swaying, config):
    return plan([str(swaying)], config, pilots=3, seed=0)


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


def test_what_sound_videos_give_is_predicted_to_the_clip(predicted, swaying, config):
    clips = sum(((48 + 12 * n - 1) * 7.5 / 24 + 1.05) // 8 for n in range(6))
    assert (predicted.sources, predicted.pilots, predicted.lost, predicted.clips) == (
        6,
        3,
        0,
        clips,
    )
    assert predicted.shards == 3
    assert predicted.source_bytes == sum(path.stat().st_size for path in swaying.iterdir())


def test_hours_are_those_of_the_stages_and_the_longest_is_the_bottleneck(predicted):
    assert predicted.core_hours == pytest.approx(sum(predicted.stages.values()))
    assert predicted.stages[predicted.bottleneck] == max(predicted.stages.values()) > 0
    assert predicted.hours(1) == pytest.approx(predicted.core_hours)
    # Three shards are two rounds
    assert predicted.hours(2) == pytest.approx(predicted.core_hours * 2 / 3)
    assert predicted.hours(100) == pytest.approx(predicted.core_hours / 3)


def test_a_sample_stands_for_a_larger_set_of_longer_videos(swaying, config, predicted):
    larger = plan([str(swaying)], config, pilots=3, seed=0, videos=6000, seconds=32.5)
    assert larger.sources == 6000
    assert larger.source_bytes == pytest.approx(10000 * predicted.source_bytes, rel=0.01)
    # A longer one wastes less at its end
    assert larger.clips == pytest.approx(10000 * predicted.clips, rel=0.25)


def test_only_a_piece_of_a_long_video_is_run_and_the_whole_is_predicted(
    tmp_path, swaying_frames, config
):
    write_video(tmp_path / "long.mp4", swaying_frames(24 * 40), fps=24)
    predicted = plan([str(tmp_path / "long.mp4")], config)
    assert PIECE_SECONDS == 10
    assert predicted.clips == pytest.approx(37, abs=4)


def test_damaged_videos_and_such_as_are_none_count_as_lost(master, config, made_shards):
    predicted = plan([str(master)], config)
    statistics = load_manifest(made_shards).statistics
    assert (predicted.sources, predicted.lost) == (
        statistics.sources,
        statistics.quarantined / statistics.sources,
    )
    assert predicted.clips == pytest.approx(statistics.samples, abs=1)
    assert predicted.bytes == pytest.approx(statistics.bytes, rel=0.25)


def test_nothing_but_text_is_no_plan(tmp_path, config):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(
        CorrFractalError, match=r"none of the 1 videos tried gave a clip.*text\.mp4"
    ):
        plan([str(tmp_path / "text.mp4")], config)


def test_a_written_plan_is_read_back_for_its_configuration_only(predicted, tmp_path, config):
    path = tmp_path / "plan.json"
    prediction.save(predicted, path)
    assert prediction.load(path, config.recipe()) == predicted
    with pytest.raises(CallError, match="another configuration"):
        prediction.load(path, dataclasses.replace(config, seed=1).recipe())
    path.write_text(json.dumps({"clips": 1}))
    with pytest.raises(CallError, match="is no plan"):
        prediction.load(path, config.recipe())
    with pytest.raises(NotFoundError, match="no such plan"):
        prediction.load(tmp_path / "gone.json", config.recipe())


def test_errors_are_relative_to_what_it_was_and_hours_to_the_part_that_was_made(predicted):
    predicted = dataclasses.replace(
        predicted, sources=2, clips=12, frames=96, bytes=900, core_hours=0.6, worker_mb=250.0
    )
    errors = {one.name: round(one.error, 3) for one in prediction.compare(predicted, stored())}
    assert list(errors.values()) == [0, 0.2, -0.1, 0.2, 0.25]
    half = {one.name: one.predicted for one in prediction.compare(predicted, stored(frames=40))}
    assert half["core-hours"] == pytest.approx(0.3)


def test_the_text_has_units_that_people_read(predicted):
    large = dataclasses.replace(
        predicted, bytes=15_123_000_000_000, core_hours=2800.0, stages={"label": 2100.0, "decode": 700.0},
        bottleneck="label", worker_mb=345.0, shards=10**6,
    )  # fmt: skip
    text = "\n".join(prediction.lines(large, workers=28))
    assert "15.1 TB" in text
    assert "4.17 days with 28 workers" in text
    assert "345 MB a worker, 9.66 GB with 28 workers" in text
    assert "label (label 75%, decode 25%)" in text


def test_planning_leaves_the_folder_as_it_was(swaying, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(Path(swaying).iterdir())
    plan([str(swaying)], config, pilots=1)
    assert list(tmp_path.iterdir()) == []
    assert sorted(Path(swaying).iterdir()) == before
