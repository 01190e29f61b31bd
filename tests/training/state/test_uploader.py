"""The uploader sends complete lines of the metrics file, in order, each step once."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest

from training.state.metrics_file import MetricLine, MetricsFile
from training.state.run_log import start_run
from training.state.uploader import METRICS_PER_REQUEST, Uploader

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def run(tiny_shards: Path, tmp_path: Path) -> tuple[str, str]:
    """A store and a new run in it."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return uri, start_run(uri, "run", {}, tiny_shards, "digest")


def line(step: int, **values: float) -> MetricLine:
    return MetricLine(step=step, time=step, values={"loss": 1.0 / step, **values})


def sent(run: tuple[str, str], name: str = "loss") -> list[tuple[int, float]]:
    history = mlflow.MlflowClient(run[0]).get_metric_history(run[1], name)
    return [(point.step, point.value) for point in history]


def test_an_incomplete_line_waits_and_a_later_uploader_sends_what_is_missing(
    run: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = "".join(line(step).to_json() for step in (1, 2, 3))
    path.write_text(whole[:-5])
    assert Uploader(*run, path).close(None)
    assert sent(run) == [(1, 1.0), (2, 0.5)]

    # Other values show that steps 1 and 2 are not sent again.
    path.write_text("".join(line(step, loss=7.0).to_json() for step in (1, 2, 3)))
    assert Uploader(*run, path).close("FINISHED")
    assert sent(run) == [(1, 1.0), (2, 0.5), (3, 7.0)]
    assert mlflow.MlflowClient(run[0]).get_run(run[1]).info.status == "FINISHED"


def test_a_backlog_of_more_metrics_than_a_request_may_hold_is_sent(
    run: tuple[str, str], tmp_path: Path
) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    for step in range(1, 32):
        metrics.append(line(step, **{f"gpu_{k}": 1.0 for k in range(40)}))
    assert METRICS_PER_REQUEST < 30 * 41
    assert Uploader(*run, metrics.path).close(None, timeout=30)
    assert [step for step, _ in sent(run)] == list(range(1, 32))
    assert [step for step, _ in sent(run, "gpu_39")] == list(range(1, 32))


def test_a_file_that_cannot_be_sent_does_not_delay_the_metrics(
    run: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError("no room for files")

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", refuse)
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    uploader = Uploader(*run, metrics.path)
    uploader.artifact(metrics.path)
    for step in (1, 2):
        metrics.append(line(step))
        uploader.new_lines()
    assert not uploader.close(None, timeout=5)
    assert [step for step, _ in sent(run)] == [1, 2]
    assert "no room for files" in caplog.text
    assert "did not take everything" in caplog.text

    monkeypatch.undo()
    uploader._thread.join(20)  # it retries and ends
    assert not uploader._thread.is_alive()
    names = [entry.path for entry in mlflow.MlflowClient(run[0]).list_artifacts(run[1])]
    assert "metrics.jsonl" in names


def test_the_file_is_cut_back_to_the_step_that_the_run_resumes_from(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(step).to_json() for step in (1, 2, 3)) + '{"step": 4, "ti')
    MetricsFile(path, 2)
    assert [json.loads(text)["step"] for text in path.read_text().splitlines()] == [1, 2]
