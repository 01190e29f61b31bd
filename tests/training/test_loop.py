"""A stopped run resumes to bit-identical weights; a diverged one leaves what explains it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.demo.render import render_evaluation_set
from corrfractal import CorrFractal
from corrfractal.common.config import config_to_dict
from corrfractal.common.errors import CorrFractalError, DivergedError
from corrfractal.shards.manifest import load_manifest
from training.config import TrainingConfig
from training.job import TrainingJob
from training.loop import fit
from training.run import check_finished
from training.state.run_log import start_run

FIT = """
import json, sys, torch
from corrfractal.common.config import config_from_dict
from training.job import TrainingJob
from training.loop import fit
torch.set_num_threads(1)
fit(config_from_dict(TrainingJob, json.loads(sys.argv[1])), torch.device("cpu"))
"""

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def new_job(shards: Path, out: Path, config: TrainingConfig, store: str) -> TrainingJob:
    out.mkdir(exist_ok=True)
    digest = load_manifest(shards).digest
    run_id = start_run(store, out.name, {"steps": config.steps}, shards, digest)
    assert config.steps is not None
    return TrainingJob(shards=str(shards), shards_digest=digest, out=str(out), config=config, total=config.steps,
               tracking_uri=store, run_id=run_id)  # fmt: skip


def assert_same_weights(a: Path, b: Path) -> None:
    ours, theirs = (CorrFractal.load(run / "model.safetensors").state_dict() for run in (a, b))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _fit_in_process(job: TrainingJob) -> None:
    torch.set_num_threads(1)
    fit(job, torch.device("cpu"))


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory, store: str
) -> tuple[TrainingJob, Path]:
    network = CorrFractal(None).config
    config = TrainingConfig(
        network=replace(network, width=4, embedding_channels=8), batch_size=4, crop=32, steps=8, checkpoint_every=3,
        log_every=2, picture_every=4, learning_rate=3e-3,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    job = new_job(tiny_shards, out, config, store)
    torch.set_num_threads(1)
    fit(job, torch.device("cpu"))
    return job, out


def test_a_run_leaves_metrics_pictures_checkpoints_and_a_model(
    uninterrupted: tuple[TrainingJob, Path],
) -> None:
    import mlflow

    job, out = uninterrupted
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    logged = {
        "loss",
        "error",
        "copy_error",
        "learning_rate",
        "gradient_norm",
        "samples_per_second",
        "data_wait",
    }
    logged |= {"checkpoint_stall", "gmac_per_second", "share_of_peak", "peak_memory_mb"}
    assert logged <= set(lines[0])
    assert all(0 < line["share_of_peak"] < 1.5 and 0 <= line["data_wait"] <= 1 for line in lines)
    assert sorted(p.name for p in (out / "pictures").iterdir()) == [
        "step-00000004.png",
        "step-00000008.png",
    ]
    assert json.loads((out / "result.json").read_text())["step"] == 8

    mlflow.set_tracking_uri(job.tracking_uri)
    run = mlflow.get_run(job.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss"] == pytest.approx(lines[-1]["loss"])
    assert run.inputs.dataset_inputs[0].dataset.digest == job.shards_digest[:36]
    history = mlflow.MlflowClient().get_metric_history(job.run_id, "loss")
    assert [point.step for point in history] == [2, 4, 6, 8]


def test_after_kill_9_at_any_moment_the_weights_are_bit_identical(
    uninterrupted: tuple[TrainingJob, Path], tmp_path: Path, store: str
) -> None:
    first, reference = uninterrupted
    out = tmp_path / "killed"
    job = new_job(Path(first.shards), out, first.config, store)
    # The second attempt has batches in flight in two processes.
    for at_least, processes in ((3, 0), (6, 2)):
        attempt = replace(
            job, config=replace(job.config, loader_workers=processes, batches_ahead=4)
        )
        process = subprocess.Popen([sys.executable, "-c", FIT, json.dumps(config_to_dict(attempt))])
        while not (out / "checkpoints" / f"step-{at_least:08d}.json").exists():
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        process.kill()
        process.wait()
    _fit_in_process(job)
    assert_same_weights(out, reference)
    last = [
        json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in (out, reference)
    ]
    assert last[0]["loss"] == last[1]["loss"]


def test_a_damaged_newest_checkpoint_costs_steps_but_not_exactness(
    uninterrupted: tuple[TrainingJob, Path], tmp_path: Path, store: str
) -> None:
    import shutil

    first, reference = uninterrupted
    out = tmp_path / "damaged"
    job = new_job(Path(first.shards), out, first.config, store)
    shutil.copytree(reference / "checkpoints", out / "checkpoints")
    (out / "checkpoints" / "step-00000008.pt").write_bytes(b"half a file")
    _fit_in_process(job)
    assert_same_weights(out, reference)


def test_a_loss_that_is_not_finite_stops_with_the_step_its_samples_and_a_checkpoint(
    uninterrupted: tuple[TrainingJob, Path], tmp_path: Path, store: str
) -> None:
    first, _ = uninterrupted
    config = replace(first.config, learning_rate=1e30, clip_gradient=1e30)
    job = new_job(Path(first.shards), tmp_path / "diverged", config, store)
    _fit_in_process(job)
    left = json.loads((tmp_path / "diverged" / "diverged" / "step.json").read_text())
    assert left["step"] >= 1
    assert len(left["samples"]) == 4
    assert list((tmp_path / "diverged" / "diverged").glob("step-*.pt"))
    assert not (tmp_path / "diverged" / "result.json").exists()
    with pytest.raises(DivergedError, match=rf"step {left['step']}.*diverged"):
        check_finished(tmp_path / "diverged")
    (tmp_path / "diverged" / "result.json").write_text("{}")
    check_finished(tmp_path / "diverged")  # a later attempt succeeded


def test_the_network_is_scored_while_it_trains_and_learns_no_differently(
    uninterrupted: tuple[TrainingJob, Path], tmp_path: Path, store: str
) -> None:
    first, reference = uninterrupted
    render_evaluation_set(tmp_path / "davis", sequences=1, frames=4, size=(64, 80))
    config = replace(first.config, evaluate_on=str(tmp_path / "davis"), evaluate_every=5)
    job = new_job(Path(first.shards), tmp_path / "scored", config, store)
    _fit_in_process(job)
    assert_same_weights(tmp_path / "scored", reference)
    lines = [
        json.loads(line)
        for line in (tmp_path / "scored" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines if "JF" in line] == [5, 8]
    assert all(0 <= line["JF"] <= 1 for line in lines if "JF" in line)


def test_two_trainings_never_write_to_one_folder(
    uninterrupted: tuple[TrainingJob, Path],
    tmp_path: Path,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import fcntl

    from training.state import run_folder

    first, _ = uninterrupted
    job = new_job(Path(first.shards), tmp_path / "busy", first.config, store)
    monkeypatch.setattr(run_folder, "LOCK_TIMEOUT", 0.1)
    with (tmp_path / "busy" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CorrFractalError, match=r"another training is writing to .*busy"):
            _fit_in_process(job)
