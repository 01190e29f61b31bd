"""A training run at an S3 URI, on hosts that share nothing but the store: one is cut off, then the
driver is killed, and it ends as if nothing was."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hosts import Host, until
from object_store import BUCKET, SETTINGS, start_store
from ray_hosts import RAY_PORT, Cluster, Ledger, clean_environment

from cluster.demo.render import render_training_videos
from corrfractal import CorrFractal
from corrfractal.files import storage
from training.state.run_folder import steps_at

STEPS = 40
SHARDS = f"s3://{BUCKET}/shards"
RUN = f"s3://{BUCKET}/runs/first"
SETTINGS_OF_RUN = (
    "crop=48", "batch_size=2", "checkpoint_every=4", "log_every=1", "picture_every=30", "network.width=4",
    "network.embedding_channels=8",
)  # fmt: skip


def call(*arguments: str) -> list[str]:
    settings = [text for setting in SETTINGS_OF_RUN for text in ("--set", setting)]
    options = ["--profile", "cpu", "--workers", "2", "--steps", str(STEPS), *settings]
    return [sys.executable, "-P", "-m", "corrfractal", "train", SHARDS, *arguments, *options]


def run(command: list[str], folder: Path) -> None:
    environment = {**clean_environment(), **SETTINGS}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def store(cluster: Cluster, folder: Path) -> Iterator[Host]:
    host = start_store(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        yield host
    host.stop()


@pytest.fixture(scope="module")
def alone(cluster: Cluster, store: Host, folder: Path) -> Path:
    """The same run in a local folder of one machine, undisturbed."""
    here = folder / "alone"
    here.mkdir()
    render_training_videos(here / "videos", count=4, frames=48)
    config = here / "workflow.toml"
    config.write_text(
        'sources = ["videos"]\nout = "."\n[precompute]\nsize = 64\nvideos_per_shard = 1\n'
        "[precompute.clip]\nfps = 12.0\nhop = 4\n"
    )
    precompute = [sys.executable, "-m", "corrfractal", "precompute", "videos", "--out", SHARDS]
    run([*precompute, "--config", str(config), "--workers", "2"], here)
    run(call("--out", "run"), here)
    return here / "run"


def start_driver(cluster: Cluster) -> subprocess.Popen[str]:
    """``corrfractal train`` on the head."""
    command = call("--out", RUN, "--max-failures", "-1")
    environment = {
        **cluster.head.settings(),
        "RAY_ADDRESS": f"{cluster.head.address}:{RAY_PORT}",
    }
    with (cluster.head.folder / "train.log").open("ab") as log:
        return subprocess.Popen(
            cluster.head.command(*command), env=environment, stdout=log, stderr=log, text=True
        )


def lines() -> list[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        text = storage.read(f"{RUN}/metrics.jsonl")
        return [json.loads(line) for line in text.splitlines()]
    return []


def newest() -> int:
    return max(steps_at(RUN), default=0)


def owner() -> str:
    holder = json.loads(storage.read(f"{RUN}/owner.json"))
    return f"{holder['host']}:{holder['process']}"


def test_cut_off_and_killed_it_resumes_from_the_store_to_the_same_weights(
    cluster: Cluster, store: Host, alone: Path, ledger: Ledger
) -> None:
    driver = start_driver(cluster)
    until(lambda: newest() >= 4, 600, "a checkpoint in the store")

    # 1. A worker's host loses its network.
    at_work = [host for host in cluster.hosts[1:] if host.runs("ray::RayTrainWorker")]
    victim, since = at_work[0], time.monotonic()
    victim.cut()
    until(lambda: victim.address not in cluster.alive(), 240, "the loss to be noticed")
    noticed = f"{time.monotonic() - since:.0f} s"
    reached = newest()
    cluster.revive(victim)
    until(lambda: newest() > reached, 600, "training to go on")
    recovered = f"{time.monotonic() - since:.0f} s"
    ledger.note(
        "training at an S3 URI, 2 workers: one's host cut off", noticed, recovered,
        f"the steps since checkpoint {reached}, repeated",
    )  # fmt: skip

    # 2. The driver is killed; the same command on the same cluster resumes.
    killed = owner()
    before = newest()
    assert before < STEPS
    assert cluster.head.kill("corrfractal train") > 0
    driver.wait()
    since = time.monotonic()
    driver = start_driver(cluster)
    until(lambda: newest() > before, 600, "training to go on")
    ledger.note(
        "the same: its driver is killed", "-", f"{time.monotonic() - since:.0f} s",
        f"the steps since checkpoint {before}; the lease passed from {killed} to {owner()}",
    )  # fmt: skip
    assert driver.wait(timeout=900) == 0, (cluster.head.folder / "train.log").read_text()

    assert [line["step"] for line in lines()] == list(range(1, STEPS + 1))
    with storage.local_copy(f"{RUN}/model.safetensors") as path:
        ours = CorrFractal.load(path).state_dict()
    theirs = CorrFractal.load(alone / "model.safetensors").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ledger.note("the same, at its end", "-", "-", "weights bit-identical, each step once")


def test_nothing_of_the_run_is_on_what_the_hosts_share(cluster: Cluster) -> None:
    names = {"checkpoints", "metrics.jsonl", "job.json", "result.json"}
    found = [path for path in cluster.shared.rglob("*") if "first" in path.parts]
    assert [path for path in found if path.name in names] == []
    for host in cluster.hosts:
        outside = [path for path in host.folder.iterdir() if path.name != "tmp"]
        assert [path for path in outside if path.is_dir()] == []
