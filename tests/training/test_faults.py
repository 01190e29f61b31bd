"""Faults around a run lose nothing: kills during a write, SIGTERM, a full disk, a stopped tracking
server."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from corrfractal import CorrFractal
from corrfractal.common.config import config_from_dict, config_to_dict
from corrfractal.shards.manifest import load_manifest
from tests.tracking_server import TrackingServer
from training import loop
from training.config import TrainingConfig
from training.job import TrainingJob
from training.loop import Outcome, fit
from training.state.checkpoint import CheckpointWriter, latest_checkpoint
from training.state.metrics_file import MetricLine, MetricsFile, read_lines
from training.state.recorder import checkpoint_of
from training.state.run_log import start_run

FIT = """
import json, sys, torch
from corrfractal.common.config import config_from_dict
from training.job import TrainingJob
from training.loop import fit
from training.state.stop import catch_sigterm
torch.set_num_threads(1)
catch_sigterm()
print(fit(config_from_dict(TrainingJob, json.loads(sys.argv[1])), torch.device("cpu")).value)
"""

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory, store: str
) -> TrainingJob:
    """An uninterrupted run, with a checkpoint and a log line of every step."""
    network = replace(CorrFractal(None).config, width=4, embedding_channels=8)
    config = TrainingConfig(network=network, batch_size=4, crop=32, steps=10, checkpoint_every=1, keep_checkpoints=99,
                            log_every=1, picture_every=5, learning_rate=3e-3)  # fmt: skip
    job = new_job(tiny_shards, tmp_path_factory.mktemp("runs") / "uninterrupted", config, store)
    torch.set_num_threads(1)
    assert fit(job, torch.device("cpu")) is Outcome.FINISHED
    return job


def new_job(shards: str | Path, out: Path, config: TrainingConfig, store: str) -> TrainingJob:
    out.mkdir(exist_ok=True)
    digest = load_manifest(shards).digest
    assert config.steps is not None
    return TrainingJob(shards=str(shards), shards_digest=digest, out=str(out), config=config, total=config.steps,
               tracking_uri=store, run_id=start_run(store, out.name, {}, shards, digest))  # fmt: skip


def started(job: TrainingJob) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FIT, json.dumps(config_to_dict(job))],
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_same_run(job: TrainingJob, uninterrupted: TrainingJob) -> None:
    """The same weights to the last bit, and every step's loss once."""
    ours, theirs = (
        CorrFractal.load(Path(j.out) / "model.safetensors").state_dict()
        for j in (job, uninterrupted)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses(job) == losses(uninterrupted)


def losses(job: TrainingJob) -> list[tuple[int, float]]:
    return [
        (line.step, line.values["loss"])
        for line in read_lines(Path(job.out) / "metrics.jsonl", job.total)
    ]


def delivered(job: TrainingJob) -> list[int]:
    import mlflow

    return [
        p.step for p in mlflow.MlflowClient(job.tracking_uri).get_metric_history(job.run_id, "loss")
    ]


def test_a_run_killed_during_the_write_of_a_checkpoint_resumes_from_the_previous_one(
    uninterrupted: TrainingJob, tmp_path: Path, store: str
) -> None:
    job = new_job(uninterrupted.shards, tmp_path / "killed", uninterrupted.config, store)
    folder = tmp_path / "killed" / "checkpoints"
    process = started(job)
    while not (
        half := [name for name in _names(folder) if name.endswith(".pt." + f"{process.pid}.tmp")]
    ):
        assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.communicate()
    assert half[0] in _names(folder), "it was killed in the middle of writing"
    assert fit(job, torch.device("cpu")) is Outcome.FINISHED
    assert_same_run(job, uninterrupted)
    assert _names(folder) == []
    assert delivered(job) == list(range(1, 11))


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".*")]


def test_sigterm_leaves_a_checkpoint_of_the_last_step_and_no_step_is_repeated(
    uninterrupted: TrainingJob, tmp_path: Path, store: str
) -> None:
    job = new_job(
        uninterrupted.shards,
        tmp_path / "asked",
        replace(uninterrupted.config, checkpoint_every=99),
        store,
    )
    process = started(job)
    while len(losses(job)) < 2:
        assert process.poll() is None, "the run ended before it could be asked to leave"
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=120)[0].split()[-1] == "stopped"
    assert process.returncode == 0
    checkpoint = latest_checkpoint(tmp_path / "asked" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == losses(job)[-1][0] < 10
    assert fit(job, torch.device("cpu")) is Outcome.FINISHED
    assert_same_run(job, uninterrupted)


def test_two_workers_resume_the_run_of_one_with_the_same_losses(
    uninterrupted: TrainingJob, tmp_path: Path, store: str
) -> None:
    """Sums are taken in another order: the first losses differ by that, and Adam amplifies it later."""
    job = new_job(uninterrupted.shards, tmp_path / "wider", uninterrupted.config, store)
    (tmp_path / "wider" / "checkpoints").mkdir()
    for file in Path(uninterrupted.out, "checkpoints").glob("step-00000004.*"):
        shutil.copy(file, tmp_path / "wider" / "checkpoints")
    mp.spawn(_fit_rank, args=(config_to_dict(job), str(tmp_path / "meeting")), nprocs=2)
    ours, theirs = losses(job), losses(uninterrupted)[4:]
    assert [step for step, _ in ours] == [step for step, _ in theirs] == list(range(5, 11))
    assert ours[0][1] == pytest.approx(theirs[0][1], rel=1e-5)
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=1e-3)
    weights, expected = (
        CorrFractal.load(Path(j.out) / "model.safetensors").state_dict()
        for j in (job, uninterrupted)
    )
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-3, msg=name)


def _fit_rank(rank: int, job: dict[str, object], meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    assert fit(config_from_dict(TrainingJob, job), torch.device("cpu"), rank, 2) is Outcome.FINISHED
    dist.destroy_process_group()


def test_a_full_disk_costs_checkpoints_but_not_the_run(
    uninterrupted: TrainingJob, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file may grow beyond 150 kB from step 3 to step 7: neither a checkpoint nor the data base
    of the store."""
    job = new_job(uninterrupted.shards, tmp_path / "full", uninterrupted.config, store)
    room = resource.getrlimit(resource.RLIMIT_FSIZE)

    def at(step: int) -> None:
        if step in (3, 7):
            time.sleep(0.5)  # writes under way still succeed
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000 if step == 3 else room[0], room[1]))

    with calling(at, monkeypatch):
        try:
            assert fit(job, torch.device("cpu")) is Outcome.FINISHED
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, room)
    assert_same_run(job, uninterrupted)
    assert delivered(job) == list(range(1, 11))
    steps = [
        int(p.stem.removeprefix("step-"))
        for p in sorted((tmp_path / "full" / "checkpoints").glob("*.pt"))
    ]
    assert {1, 2, 8, 9, 10} <= set(steps)
    assert not {4, 5, 6} & set(steps)
    messages = (tmp_path / "full" / "messages.log").read_text()
    assert f"no checkpoint of step 5 in {tmp_path / 'full' / 'checkpoints'}" in messages


@contextmanager
def calling(at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Call ``at(step)`` between the steps of a run."""
    plain, step = loop.train_step, iter(range(99))

    def train_step(*arguments: object):
        at(next(step))
        return plain(*arguments)

    monkeypatch.setattr(loop, "train_step", train_step)
    yield
    monkeypatch.undo()


def test_a_checkpoint_that_cannot_be_written_is_logged_and_leaves_no_part_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from training.state.checkpoint import Checkpoint

    def checkpoint(step: int) -> Checkpoint:
        weights = {"weight": torch.full((100_000,), float(step))}
        return Checkpoint(
            step=step, model=weights, optimizer={}, shards_digest="s", config_digest="c", run_id="r"
        )

    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CheckpointWriter(tmp_path, keep=5) as writer:
        for step in (1, 2, 3):
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000 if step == 2 else room[0], room[1]))
            try:
                writer.save(checkpoint(step))
                writer.join()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, room)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000001.json", "step-00000001.pt", "step-00000003.json", "step-00000003.pt",
    ]  # fmt: skip
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"no checkpoint of step 2 in {tmp_path}" in record.getMessage()


def test_later_steps_do_not_change_a_snapshot(tmp_path: Path, uninterrupted: TrainingJob) -> None:
    model, optimizer = loop.build(uninterrupted.config, torch.device("cpu"), 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    snapshot = checkpoint_of(uninterrupted, 1, model, optimizer).snapshot()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(snapshot.model[name], before[name]) for name in before)


def test_a_line_that_could_not_be_written_is_written_with_the_next_one(tmp_path: Path) -> None:
    lines = [MetricLine(step=s, time=s, values={"loss": 0.5}) for s in (1, 2, 3)]
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.append(lines[0])
    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.path.stat().st_size + 10, room[1]))
    try:
        with pytest.raises(OSError, match="large"):
            file.append(lines[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
    file.append(lines[2])
    assert read_lines(file.path, 9) == lines


def test_metrics_missed_by_a_tracking_server_arrive_later_in_order_each_once(
    tiny_shards: Path,
    uninterrupted: TrainingJob,
    tmp_path: Path,
    tracking_server: TrackingServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real server, stopped after the third step of a run and started again before its eighth."""
    job = new_job(
        tiny_shards, tmp_path / "run", uninterrupted.config, f"http://{tracking_server.address}"
    )

    def at(step: int) -> None:
        if step == 3:
            while delivered(job) != [1, 2, 3]:
                time.sleep(0.05)
            tracking_server.stop()
        if step == 5:
            time.sleep(2)  # until an attempt has failed
        if step == 7:
            tracking_server.start()

    with calling(at, monkeypatch):
        assert fit(job, torch.device("cpu")) is Outcome.FINISHED
    assert delivered(job) == list(range(1, 11))
    assert "takes no metrics" in (tmp_path / "run" / "messages.log").read_text()
    assert_same_run(job, uninterrupted)
