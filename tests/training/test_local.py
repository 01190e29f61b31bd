"""``training.local`` and ``corrfractal train`` continue each other's runs to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from corrfractal import CorrFractal
from corrfractal.common.config import config_to_dict
from corrfractal.shards.manifest import load_manifest
from tests.bare_machine import bare_environment
from training import ray_backend
from training.config import TrainingConfig
from training.job import TrainingJob
from training.loop import Outcome, fit
from training.request import check_request, open_run
from training.run import train
from training.state.metrics_file import read_lines
from training.state.stop import request_stop

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

LOCAL = [sys.executable, "-m", "training.local"]


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    network = replace(CorrFractal(None).config, width=4, embedding_channels=8)
    return TrainingConfig(
        network=network,
        batch_size=4,
        crop=32,
        steps=16,
        checkpoint_every=3,
        log_every=1,
        picture_every=8,
        learning_rate=3e-3,
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads decide the last digits of sums: all runs here have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def use_one_cpu() -> None:
    """Restrict this thread to one CPU, for which a run starts one thread."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_shards: Path,
    config: TrainingConfig,
    one_thread: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    out.mkdir()
    assert config.steps is not None
    job = TrainingJob(
        shards=str(tiny_shards),
        shards_digest=load_manifest(tiny_shards).digest,
        out=str(out),
        config=config,
        total=config.steps,
        tracking_uri="",
        run_id="",
    )
    assert fit(job, torch.device("cpu")) is Outcome.FINISHED
    return out


def settings_of(config: TrainingConfig) -> list[str]:
    """The options of a command line that ask for ``config``."""
    values = config_to_dict(config)
    network = values.pop("network")
    values |= {f"network.{name}": network[name] for name in ("width", "embedding_channels")}
    options = ["--preset", "paper", "--profile", "gpu"]  # fields that none names are the paper's
    for name, value in values.items():
        if value is not None:
            options += ["--set", f"{name}={json.dumps(value)}"]
    return options


def run_bare(call: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command on one CPU of a bare machine."""
    return subprocess.run(
        call,
        env=bare_environment(folder / "bare"),
        preexec_fn=use_one_cpu,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_same_run(ours: Path, theirs: Path) -> None:
    """The same weights to the last bit, and every step's loss once."""
    weights, expected = (
        CorrFractal.load(run / "model.safetensors").state_dict() for run in (ours, theirs)
    )
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert losses(ours) == losses(theirs)


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line.step, line.values["loss"]) for line in read_lines(run / "metrics.jsonl", 99)]


def delivered(run_id: str, uri: str) -> list[int]:
    import mlflow

    history = mlflow.MlflowClient(uri).get_metric_history(run_id, "loss")
    return [point.step for point in history]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own settings
def test_train_on_ray_resumes_a_run_that_a_bare_machine_began(
    uninterrupted: Path,
    tiny_shards: Path,
    config: TrainingConfig,
    ray_session: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    call = [
        *LOCAL,
        str(tiny_shards),
        "--out",
        str(out),
        *settings_of(config),
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(
        call,
        env=bare_environment(tmp_path / "bare"),
        preexec_fn=use_one_cpu,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (out / "checkpoints" / "step-00000003.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "run the same command again to resume" in said
    done = losses(out)[-1][0]
    assert 3 <= done < 16
    assert (out / "checkpoints" / f"step-{done:08d}.pt").exists()

    def worker_on_one_cpu(settings: dict[str, Any]) -> None:
        import os

        from training import ray_backend

        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        ray_backend._train_worker(settings)

    monkeypatch.setattr(ray_backend, "_train_worker", worker_on_one_cpu)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = train(tiny_shards, out, config, tracking_uri=uri, workers=1)
    assert_same_run(out, uninterrupted)
    # MLflow has the steps of both, and the pictures.
    assert delivered(result.model.run_id, uri) == list(range(1, 17))
    import mlflow

    pictures = mlflow.MlflowClient(uri).list_artifacts(result.model.run_id, "pictures")
    assert [Path(item.path).name for item in pictures] == [
        "step-00000008.png",
        "step-00000016.png",
    ]


def test_a_bare_machine_finishes_a_run_of_train_which_then_registers_it(
    uninterrupted: Path, tiny_shards: Path, config: TrainingConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    asked, samples = check_request(tiny_shards, out, config, uri, (1, 1))
    job = open_run(asked, len(samples), (1, 1))
    steps = iter(range(1, 99))

    def stop_after_seven(time: object) -> None:
        if next(steps) == 7:
            request_stop(out)

    assert fit(job, torch.device("cpu"), on_step=stop_after_seven) is Outcome.STOPPED
    stored = (out / "job.json").read_text()

    call = [*LOCAL, str(tiny_shards), "--out", str(out), *settings_of(config), "--json"]
    call += ["--device", "cpu"]
    done = run_bare(call, tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 16
    assert_same_run(out, uninterrupted)
    assert (out / "job.json").read_text() == stored
    assert len((out / "attempts.jsonl").read_text().splitlines()) == 1

    version = train(tiny_shards, out, config, tracking_uri=None, workers=1).model
    assert version.run_id == job.run_id
    assert delivered(job.run_id, uri) == list(range(1, 17))


def test_two_processes_of_torchrun_take_the_steps_of_one(
    uninterrupted: Path, tiny_shards: Path, config: TrainingConfig, tmp_path: Path
) -> None:
    """The first losses are equal up to the order of sums; training amplifies that later."""
    out = tmp_path / "run"
    asked = replace(config, steps=3)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    call = [
        *torchrun,
        "--nproc-per-node",
        "2",
        "-m",
        "training.local",
        str(tiny_shards),
    ]
    call += ["--out", str(out), *settings_of(asked), "--device", "cpu"]
    done = run_bare(call, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model file") == 1
    ours = [loss for _, loss in losses(out)]
    theirs = [loss for _, loss in losses(uninterrupted)[:3]]
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours == pytest.approx(theirs, rel=2e-2)
    (line,) = (out / "attempts.jsonl").read_text().splitlines()
    assert json.loads(line)["workers"] == [2, 2]


def test_wrong_calls_are_refused_before_anything_is_written(
    tiny_shards: Path, config: TrainingConfig, tmp_path: Path
) -> None:
    from training.local import main

    def refusal(*options: str) -> str:
        call = [str(tiny_shards), "--out", str(tmp_path / "run"), *settings_of(config)]
        result = CliRunner().invoke(main, [*call, *options])
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "run").exists()
        return result.stderr

    assert "--backend nccl needs GPUs" in refusal("--device", "cpu", "--backend", "nccl")
    assert "multiple of accumulate" in refusal("--device", "cpu", "--set", "accumulate=3")
    if not torch.cuda.is_available():
        assert "finds 0 GPUs, and 1 processes" in refusal("--device", "cuda")
