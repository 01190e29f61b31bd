"""JHMDB: heat maps and their peaks, PCK of the tracker's joints, split lists, damage by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrfractal.common.errors import CorrFractalError, IntegrityError, NotFoundError
from corrfractal.network.tracker import FAST
from inference.benchmarks.jhmdb import Jhmdb, PckSummary
from inference.config import InferenceConfig
from inference.datasets.jhmdb_files import open_video, video_names
from inference.load import open_model, resolve_model
from inference.prompts.heat_maps import CUTOFF, find_peaks, heat_maps


def evaluate(root: Path, out: Path, model: str, split: str = "1") -> PckSummary:
    """Every video in this process, without Ray."""
    benchmark = Jhmdb(root, split)
    source = resolve_model(model)
    config = InferenceConfig(tracker=FAST)
    results = [
        benchmark.evaluate(name, out, source, open_model(source), config)
        for name in benchmark.names()
    ]
    assert [benchmark.stored(name, out, source, config) for name in benchmark.names()] == results
    return benchmark.summarize(results, source, out)


@settings(max_examples=30, deadline=None)
@given(x=st.floats(10, 53), y=st.floats(10, 53))
def test_the_peak_of_a_heat_map_is_its_joint(x: float, y: float) -> None:
    joint = np.array([[x, y]])
    positions, _ = find_peaks(heat_maps(joint, (64, 64), cutoff=CUTOFF))
    np.testing.assert_allclose(positions, joint, atol=0.75)


def test_a_joint_far_outside_has_an_empty_map_and_is_not_detected() -> None:
    maps = heat_maps([[-30.0, 5.0], [5.0, 5.0]], (32, 32), cutoff=CUTOFF)
    assert maps[0].max() == 0
    positions, _ = find_peaks(maps)
    assert np.isnan(positions).tolist() == [[True, True], [False, False]]


def test_the_test_videos_of_a_split_are_those_marked_2(jhmdb: Path) -> None:
    assert video_names(jhmdb) == ("wave/second",)
    assert video_names(jhmdb, "all") == ("wave/first", "wave/second")
    (jhmdb / "splits" / "testlist01.txt").write_text("first 2\n")
    (jhmdb / "splits" / "wave_test_split1.txt").unlink()
    assert video_names(jhmdb) == ("wave/first",)


def test_joints_count_from_zero(jhmdb: Path) -> None:
    video = open_video(jhmdb, "wave/second")
    assert video.joints.shape == (5, 15, 2)
    np.testing.assert_allclose(video.joints[0, 0], (60, 40))
    np.testing.assert_allclose(video.joints[4, 0], (48, 36))


def test_matching_beats_copying_and_a_joint_outside_is_lost(jhmdb: Path, tmp_path: Path) -> None:
    copied = evaluate(jhmdb, tmp_path / "copy", "baseline:copy").to_dict()
    matched = evaluate(jhmdb, tmp_path / "colour", "baseline:colour").to_dict()
    assert matched["PCK@0.1"] > copied["PCK@0.1"]
    assert matched["detected"] == pytest.approx(14 / 15)
    assert matched["PCK@0.2_strict"] <= 14 / 15 + 1e-9
    assert copied["per_joint"]["left ankle"] == {"PCK@0.1": None, "PCK@0.2": None}
    assert json.loads((tmp_path / "colour" / "scores.json").read_text()) == matched


def test_joints_made_elsewhere_are_scored_alike_and_checked(jhmdb: Path, tmp_path: Path) -> None:
    ours = evaluate(jhmdb, tmp_path / "out", "baseline:copy").to_dict()
    points = tmp_path / "out" / "points"
    again = Jhmdb(jhmdb).score(points).to_dict()
    assert again["per_joint"] == ours["per_joint"]
    path = points / "wave" / "second.json"
    path.write_text(json.dumps({"points": json.loads(path.read_text())["points"][:3]}))
    with pytest.raises(
        IntegrityError, match=r"joints of wave/second are \(3, 15, 2\), not \(5, 15, 2\)"
    ):
        Jhmdb(jhmdb).score(points)
    path.write_text("[]")
    with pytest.raises(IntegrityError, match=f"{path} is not a file of joints"):
        Jhmdb(jhmdb).score(points)
    path.unlink()
    with pytest.raises(NotFoundError, match=f"no such file of joints: {path}"):
        Jhmdb(jhmdb).score(points)


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("Rename_Images", "missing"),
        ("joint_positions", "missing"),
        ("splits", "missing"),
        ("splits/wave_test_split1.txt", "missing"),
        ("splits/wave_test_split1.txt", "damaged"),
        ("Rename_Images/wave/second", "missing"),
        ("Rename_Images/wave/second/00003.png", "damaged"),
        ("joint_positions/wave/second/joint_positions.mat", "missing"),
        ("joint_positions/wave/second/joint_positions.mat", "damaged"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    jhmdb: Path, tmp_path: Path, mangle: Callable[[Path, str], None], part: str, how: str
) -> None:
    mangle(jhmdb / part, how)
    expected = (
        "CLASS_test_split1.txt"
        if part.endswith("split1.txt") and how == "missing"
        else str(jhmdb / part)
    )
    with pytest.raises(CorrFractalError, match=expected):
        evaluate(jhmdb, tmp_path / "out", "baseline:copy")


def test_fewer_pictures_than_annotated_frames_are_refused(jhmdb: Path) -> None:
    (jhmdb / "Rename_Images" / "wave" / "second" / "00005.png").unlink()
    with pytest.raises(
        NotFoundError, match=r"holds 4 pictures, but .*joint_positions\.mat annotates 5 frames"
    ):
        open_video(jhmdb, "wave/second")


def test_the_real_clip_is_read_and_copying_fails_on_it(data_dir: Path, tmp_path: Path) -> None:
    summary = evaluate(data_dir / "jhmdb", tmp_path, "baseline:copy", split="all")
    assert summary.sequences == 1
    assert len(summary.distances[0].strict) == 39
    assert summary.measures()["PCK_0.2"] < 0.05
