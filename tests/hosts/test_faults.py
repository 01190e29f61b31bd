"""One workflow of all stages, submitted from outside, while hosts are cut off and killed: it ends
as if nothing was.

The tests follow one job and build on one another: they run in this order.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hosts import ROOT, Host, until
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow_server import MlflowServer
from ray_hosts import Cluster, Ledger, clean_environment, exported, healthy

from cluster.demo.render import render_evaluation_set, render_training_videos
from corrfractal import CorrFractal

CONFIG = """
sources = ["videos"]
out = "{out}"
workers = 2
tasks = 3

[precompute]
size = 64
videos_per_shard = 1
[precompute.clip]
fps = 12.0
hop = 4

[training]
profile = "cpu"
steps = 40
crop = 48
batch_size = 2
checkpoint_every = 4
log_every = 1
picture_every = 30
[training.network]
width = 4
embedding_channels = 8

[evaluation]
data = "davis"
"""


@dataclass(frozen=True)
class Job:
    """The job under test: where it writes, and the process that follows it."""

    id: str
    out: Path
    follower: subprocess.Popen[str]


@pytest.fixture(scope="module")
def alone(cluster: Cluster) -> Path:
    """What the same configuration makes on one machine, undisturbed."""
    folder = cluster.shared
    render_training_videos(folder / "videos", count=12, frames=96)
    render_evaluation_set(folder / "davis", sequences=4, frames=12, size=(96, 128))
    for name in ("alone", "faults"):
        (folder / f"{name}.toml").write_text(CONFIG.format(out=name))
    command = [sys.executable, "-m", "corrfractal", "run", "alone.toml"]
    done = subprocess.run(
        command, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "alone"


@pytest.fixture(scope="module")
def metrics(cluster: Cluster) -> Iterator[set[str]]:
    """The names of all metrics that the hosts have exported so far: those of a process go with
    it."""
    seen, end = set[str](), threading.Event()

    def read() -> None:
        while not end.wait(2):
            seen.update(exported(cluster))

    thread = threading.Thread(target=read)
    thread.start()
    yield seen
    end.set()
    thread.join()


@pytest.fixture(scope="module")
def job(cluster: Cluster, alone: Path, metrics: set[str]) -> Iterator[Job]:
    follower = cluster.corrfractal("submit", str(cluster.shared / "faults.toml"))
    # Or its pipe is left open, which pytest takes for an error after all tests have passed
    with follower:
        assert follower.stdout is not None
        told = follower.stdout.readline()
        assert told.startswith("submitted job "), told + follower.communicate()[0]
        yield Job(told.split()[2], cluster.shared / "faults", follower)
        follower.kill()


def lost(cluster: Cluster, hosts: tuple[Host, ...], since: float) -> str:
    """Wait until the cluster knows that the hosts are gone; after how long."""
    until(
        lambda: not {host.address for host in hosts} & cluster.alive(),
        120,
        "the loss to be noticed",
    )
    return f"{time.monotonic() - since:.0f} s"


def at_work(cluster: Cluster, what: str) -> list[Host]:
    """The hosts, the head apart, on which a task or actor of this name is at work."""
    return [host for host in cluster.hosts[1:] if host.runs(f"ray::{what}")]


def status(cluster: Cluster, job: Job) -> str:
    """What ``corrfractal cluster status`` says of the job."""
    command = cluster.corrfractal("status", "--json")
    told = command.communicate()[0]  # what is meant for people comes first
    jobs = json.loads(told[told.index("{") :])["jobs"]
    return next(entry["status"] for entry in jobs if entry["id"] == job.id)


def lines(out: Path) -> list[dict[str, Any]]:
    """What the training of a workflow has written of its steps so far."""
    file = out / "training" / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def steps(out: Path) -> list[int]:
    return [line["step"] for line in lines(out)]


@dataclass(frozen=True)
class Delivered:
    """What a run in MLflow holds: metrics by name, paths of files, versions of the model."""

    metrics: dict[str, list[Metric]]
    files: set[str]
    versions: list[str]


def delivered(job: Job, server: MlflowServer, names: set[str]) -> Delivered:
    """What has arrived at the server of the training, once that is finished there."""
    run = json.loads((job.out / "training" / "job.json").read_text())["run_id"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.settings.items():
            patch.setenv(name, value)
        client = MlflowClient(server.settings["MLFLOW_TRACKING_URI"])
        until(lambda: client.get_run(run).info.status == "FINISHED", 120, "the run to be finished")
        versions = until(
            lambda: client.search_model_versions(f"run_id='{run}'"),
            120,
            "the model to be registered",
        )
        return Delivered(
            metrics={name: client.get_metric_history(run, name) for name in names},
            files={entry.path for entry in client.list_artifacts(run)},
            versions=[version.version for version in versions],
        )


def test_shards_made_while_one_host_is_cut_off_and_another_killed_are_those_of_one_machine(
    cluster: Cluster, alone: Path, job: Job, ledger: Ledger
) -> None:
    _, cut, killed = cluster.hosts
    manifest = job.out / "shards" / "manifest.json"
    until(lambda: len(at_work(cluster, "make_shard")) == 2, 120, "shards to be made on all hosts")
    before, since = len(list(manifest.parent.glob("*.json"))), time.monotonic()
    cut.cut()
    assert killed.kill("raylet/raylet") == 1
    noticed = lost(cluster, (cut, killed), since)
    assert not healthy(killed)
    until(manifest.exists, 240, "the manifest")
    recovered = f"{time.monotonic() - since:.0f} s: all 12 shards, {before} of them from before"
    ours, theirs = (
        json.loads(path.read_text()) for path in (manifest, alone / "shards" / "manifest.json")
    )
    assert ours["digest"] == theirs["digest"]
    ledger.note(
        "precompute: one host cut off, raylet of another killed",
        noticed,
        recovered,
        "nothing: same manifest digest",
    )
    for host in (cut, killed):
        cluster.revive(host)


def test_training_goes_on_from_its_checkpoint_without_its_follower_and_its_tracking_server(
    cluster: Cluster, alone: Path, job: Job, mlflow: MlflowServer, ledger: Ledger
) -> None:
    checkpoints = job.out / "training" / "checkpoints"
    until(lambda: list(checkpoints.glob("step-*.json")), 300, "a checkpoint")
    job.follower.kill()
    job.follower.wait()
    assert status(cluster, job) == "RUNNING"
    ledger.note(
        "the process that submitted and follows is killed",
        "-",
        "-",
        "nothing: `cluster status` finds the job",
    )

    mlflow.stop()
    victim, since = at_work(cluster, "RayTrainWorker")[0], time.monotonic()
    victim.cut()
    noticed = lost(cluster, (victim,), since)
    reached = steps(job.out)[-1]
    until(lambda: (s := steps(job.out)) and s[-1] != reached, 300, "training to go on")
    recovered = f"{time.monotonic() - since:.0f} s"
    kept = max(int(p.stem[5:]) for p in checkpoints.glob("step-*.json"))
    mlflow.start()
    cluster.revive(victim)
    until((job.out / "training" / "result.json").exists, 300, "the end of training")
    assert steps(job.out) == list(range(1, 41))
    ours, theirs = (
        CorrFractal.load(out / "training" / "model.safetensors").state_dict()
        for out in (job.out, alone)
    )
    print(
        f"\ntraining: lost after {noticed}, on after {recovered}, reached {reached}, checkpoint "
        f"{kept}",
        flush=True,
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ledger.note(
        f"training, 2 workers: one's host cut off after step {reached}", noticed, recovered,
        f"at most 4 steps done again (checkpoint {kept}); weights bit-identical, each step once",
    )  # fmt: skip


def test_every_sequence_is_scored_once_though_a_host_is_lost(
    cluster: Cluster, alone: Path, job: Job, ledger: Ledger
) -> None:
    victim = until(lambda: at_work(cluster, "_evaluate_task"), 300, "an evaluation on a host")[0]
    since = time.monotonic()
    victim.cut()
    noticed = lost(cluster, (victim,), since)
    until(lambda: status(cluster, job) not in ("PENDING", "RUNNING"), 600, "the job to end")
    recovered = f"{time.monotonic() - since:.0f} s: all {3 * 4} sequences scored"
    assert status(cluster, job) == "SUCCEEDED"
    for name in ("model", "untrained", "copy"):
        ours, theirs = (
            json.loads((out / "evaluation" / name / "scores.json").read_text())
            for out in (job.out, alone)
        )
        assert ours["per_object"] == theirs["per_object"]
        assert len({key.rsplit("_", 1)[0] for key in ours["per_object"]}) == 4
    ledger.note(
        "evaluation: a host cut off", noticed, recovered, "nothing: same scores, each sequence once"
    )
    cluster.revive(victim)


def test_everything_that_training_told_has_arrived_at_the_tracking_server(
    cluster: Cluster, job: Job, mlflow: MlflowServer, ledger: Ledger
) -> None:
    written = lines(job.out)
    names = {name for line in written for name in line} - {"step", "time"}
    there = delivered(job, mlflow, names)
    for name in names:
        assert [point.step for point in there.metrics[name]] == [
            line["step"] for line in written if name in line
        ], name
    assert [point.value for point in there.metrics["loss"]] == [line["loss"] for line in written]
    assert {
        "manifest.json",
        "index",
        "metrics.jsonl",
        "attempts.jsonl",
        "pictures",
    } <= there.files
    assert len(there.versions) == 1
    values = sum(map(len, there.metrics.values()))
    ledger.note(
        f"the MLflow server is stopped while training goes on, for {mlflow.away:.0f} s", "-", "-",
        f"nothing: {values} values of {len(names)} metrics, files and model version arrived",
    )  # fmt: skip


def test_every_metric_of_the_dashboard_was_exported(metrics: set[str], job: Job) -> None:
    dashboard = json.loads(
        (ROOT / "cluster" / "deploy" / "monitoring" / "dashboard.json").read_text()
    )
    asked = {
        name
        for panel in dashboard["panels"]
        for t in panel["targets"]
        for name in re.findall(r"ray_\w+", t["expr"])
    }
    assert len(asked) == 10
    assert asked - metrics == set()


def test_no_secret_is_in_a_file_of_the_run_or_of_ray(
    cluster: Cluster, job: Job, mlflow: MlflowServer
) -> None:
    secrets = [cluster.token.encode(), mlflow.settings["MLFLOW_TRACKING_PASSWORD"].encode()]
    read, found = 0, []
    for top in (cluster.shared, *(host.folder for host in cluster.hosts)):
        for path in top.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.name != "token":
                with contextlib.suppress(FileNotFoundError):  # Ray is still at work
                    contents, read = path.read_bytes(), read + 1
                    found += [path for secret in secrets if secret in contents]
    print(f"\n{read} files read")
    assert found == []
