"""The loop that all benchmarks share, on DAVIS: three ways to score agree, and errors are
combined."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from corrfractal.common.errors import CallError
from inference.benchmarks.davis import Davis
from inference.config import InferenceConfig
from inference.load import open_model, resolve_model


def test_stored_predictions_and_a_model_in_memory_have_the_scores_of_an_evaluation(
    davis: Path, tmp_path: Path
) -> None:
    benchmark = Davis(davis)
    source = resolve_model("baseline:copy")
    model = open_model(source)
    config = InferenceConfig()
    results = [
        benchmark.evaluate(name, tmp_path, source, model, config) for name in benchmark.names()
    ]
    evaluated = benchmark.summarize(results, source, tmp_path)

    in_memory = benchmark.evaluate_in_memory(model, config)
    assert in_memory.objects == evaluated.objects
    assert in_memory.out is None
    assert benchmark.score(tmp_path / "masks").objects == evaluated.objects


def test_frames_that_are_not_scored_are_predicted_and_stored(davis: Path, tmp_path: Path) -> None:
    benchmark = Davis(davis)
    source = resolve_model("baseline:copy")
    benchmark.evaluate("still", tmp_path, source, open_model(source), InferenceConfig())
    stored = sorted(path.stem for path in (tmp_path / "masks" / "still").iterdir())
    assert stored == [f"{t:05d}" for t in range(7)]
    assert [*benchmark.scored(benchmark.open("still"))] == [1, 2, 3, 4, 5]


def test_a_stored_result_is_reused_only_for_the_same_model_and_unchanged_files(
    davis: Path, tmp_path: Path
) -> None:
    benchmark = Davis(davis)
    source = resolve_model("baseline:copy")
    config = InferenceConfig()
    result = benchmark.evaluate("still", tmp_path, source, open_model(source), config)
    assert benchmark.stored("still", tmp_path, source, config) == result
    document = json.loads((tmp_path / "sequences" / "still.json").read_text())
    assert list(document) == ["name", "digest", "frames", "seconds", "peak_rss_mb", "objects"]

    assert benchmark.stored("still", tmp_path, resolve_model("baseline:colour"), config) is None
    (tmp_path / "masks" / "still" / "00003.png").write_bytes(b"changed")
    assert benchmark.stored("still", tmp_path, source, config) is None


def test_every_sequence_that_cannot_be_scored_is_named(davis: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    shutil.copytree(davis / "Annotations" / "480p", masks)
    for name in ("still", "moving"):
        (masks / name / "00002.png").unlink()
    done: list[int] = []
    with pytest.raises(CallError, match=r"2 of 2 sequences.*still: .*moving: .*00002\.png"):
        Davis(davis).score(masks, done.append)
    assert done == [1, 1]
