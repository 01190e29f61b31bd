"""Paired comparisons on the development sequences, and a row evaluated for real."""

from __future__ import annotations

import math
from pathlib import Path

import click
import numpy as np
import pytest

from benchmarks.development import (
    Scores,
    compare,
    evaluate_row,
    first_frames,
    halves_of,
    parse_row,
    sequence_scores,
    summary,
)
from inference.datasets.davis_files import open_sequence


def _scores(values: np.ndarray) -> Scores:
    keys = [("set", f"s{number}") for number in range(len(values))]
    return Scores(jf=dict(zip(keys, values.tolist(), strict=True)), seconds=0.1)


def test_the_error_is_that_of_the_differences_and_not_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(20, 95, 37)
    gains = rng.normal(3, 2, 37)
    found = compare(_scores(first + gains), _scores(first))
    assert math.isclose(found.mean, gains.mean())
    assert math.isclose(found.error, gains.std(ddof=1) / math.sqrt(37))
    assert found.counts


def test_a_gain_on_one_half_alone_does_not_count() -> None:
    first = _scores(np.full(10, 50.0))
    gaining, losing = halves_of(list(first.jf))
    assert sorted(gaining + losing) == sorted(first.jf)
    values = {**dict.fromkeys(gaining, 60.0), **dict.fromkeys(losing, 49.5)}
    found = compare(Scores(jf=values, seconds=0.1), first)
    assert found.halves == (10.0, -0.5)
    assert not found.counts


def test_objects_are_averaged_within_their_sequence() -> None:
    per_object = {
        "bmx-trees_1": {"J": 0.2, "F": 0.4},
        "bmx-trees_2": {"J": 0.6, "F": 0.8},
        "goat_1": {"J": 1.0, "F": 0.5},
    }
    scores = sequence_scores(per_object)
    assert scores == pytest.approx({"bmx-trees": 50.0, "goat": 75.0})


@pytest.mark.parametrize("text", ["starter", "=starter", "name=", ""])
def test_a_row_without_name_or_model_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="NAME=MODEL"):
        parse_row(text)


def test_rows_are_evaluated_once_and_resumed(
    ray_session: None, davis: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    short = first_frames(davis, out / "first-4" / "davis", 4)
    assert len(open_sequence(short, "moving").frames) == 4
    row = parse_row("copied=baseline:copy tracker.radius=3")
    assert row.config.tracker.radius == 3

    found = evaluate_row(row, [short], out, workers=1)
    assert found.jf["davis", "still"] == 100
    written = {path: path.stat().st_mtime_ns for path in out.rglob("sequences/*.json")}
    assert len(written) == 2
    assert evaluate_row(row, [short], out, workers=1).jf == found.jf
    assert {path: path.stat().st_mtime_ns for path in out.rglob("sequences/*.json")} == written

    line = summary([row], {"copied": found}, {"copied": found})[0]
    assert line["davis (2)"] == f"{np.mean(list(found.jf.values())):.1f}"
