"""Two workers of one training run on hosts that share nothing but an S3 store: rank 0's host is cut
off, then the next rank 0 is killed; each time other hosts resume. No Ray takes part."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hosts import NETWORK, Host, until
from object_store import ADDRESS, BUCKET, SETTINGS, start_store
from ray_hosts import Ledger, clean_environment

from cluster.demo.render import render_training_videos
from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.common.config import config_to_dict
from corrfractal.files import storage
from corrfractal.shards.manifest import load_manifest
from pipeline.config import ClipConfig, PipelineConfig
from tests.local_build import build_shards
from training.config import configuration
from training.job import TrainingJob
from training.state.run_folder import steps_at
from training.state.run_log import start_run

STEPS = 120
LEASE = 10.0  # seconds
STEP_SECONDS = 0.5  # at least: faults hit a run that is under way
PORT = 29500
TRACKING_PORT = 5000
RUN = f"s3://{BUCKET}/runs/first"

WORK = f"""
import json, sys, time, torch
import torch.distributed as dist
from corrfractal.common.config import config_from_dict
from corrfractal.common.logs import configure_logging
from corrfractal.files import lease
from training import loop
from training.job import TrainingJob

configure_logging()
lease.SECONDS = {LEASE}
job, rank, meeting = config_from_dict(TrainingJob, json.loads(sys.argv[1])), int(sys.argv[2]),
sys.argv[3] train_step = loop.train_step

def slow(*arguments):
    if job.out.startswith("s3"):
        time.sleep({STEP_SECONDS})
    return train_step(*arguments)

loop.train_step = slow
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"tcp://{{meeting}}:{PORT}", rank=rank, world_size=2)
print(loop.fit(job, torch.device("cpu"), rank, 2).value, flush=True)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def store(bridge: None, folder: Path) -> Iterator[Host]:
    """The host of the S3 store and of an MLflow server."""
    host = start_store(folder / "store")
    host.serve(
        "mlflow", sys.executable, "-m", "mlflow", "server", "--host", ADDRESS, "--port", str(TRACKING_PORT),
        "--workers", "1", "--backend-store-uri", "sqlite:////tmp/mlflow.db",
        MLFLOW_SERVER_ALLOWED_HOSTS=f"{ADDRESS}:{TRACKING_PORT}", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        yield host
    host.stop()


@pytest.fixture(scope="module")
def workers(store: Host, folder: Path) -> Iterator[tuple[Host, ...]]:
    settings = {**SETTINGS, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
    hosts = tuple(
        Host(f"worker{k}", f"{NETWORK}.{10 + k}", folder / f"worker{k}", settings)
        for k in (1, 2, 3)
    )
    for host in hosts:
        host.start()
    yield hosts
    for host in hosts:
        host.stop()


@pytest.fixture(scope="module")
def job(store: Host, folder: Path) -> TrainingJob:
    """The run at the store, whose shards are there, too."""
    here = folder / "alone"
    here.mkdir()
    render_training_videos(here / "videos", count=3, frames=48)
    clips = ClipConfig(frames=8, fps=12, hop=4)
    build_shards([here / "videos"], here / "shards", PipelineConfig(size=64, clip=clips))
    for path in (here / "shards").rglob("*"):
        if path.is_file():
            name = path.relative_to(here).as_posix()
            storage.upload(path, f"s3://{BUCKET}/{name}")

    config = replace(
        configuration("base", "cpu"),
        network=CorrFractalConfig(width=4, embedding_channels=8),
        batch_size=4,
        crop=48,
        steps=STEPS,
        checkpoint_every=3,
        log_every=1,
        picture_every=STEPS,
    )
    shards = f"s3://{BUCKET}/shards"
    digest = load_manifest(shards).digest
    tracking = f"http://{ADDRESS}:{TRACKING_PORT}"
    run = until(lambda: _started(tracking, shards, digest), 600, "the MLflow server")
    return TrainingJob(
        shards=shards, shards_digest=digest, out=RUN, config=config, total=STEPS, tracking_uri=tracking,
        run_id=run,
    )  # fmt: skip


def _started(tracking: str, shards: str, digest: str) -> str | None:
    try:
        return start_run(tracking, "first", {}, shards, digest)
    except Exception:  # it does not answer yet
        return None


@pytest.fixture(scope="module")
def alone(job: TrainingJob, folder: Path) -> Path:
    """The same run by two workers of one machine in a local folder, undisturbed."""
    out = folder / "alone" / "run"
    out.mkdir()
    run = start_run(job.tracking_uri, "alone", {}, job.shards, job.shards_digest)
    here = replace(job, out=str(out), run_id=run)
    environment = {**clean_environment(), **SETTINGS, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", WORK, json.dumps(config_to_dict(here)), str(rank), "127.0.0.1"],
            env=environment,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    assert [process.wait(600) for process in processes] == [0, 0]
    return out


def start(job: TrainingJob, ranks: tuple[Host, Host]) -> None:
    for rank, host in enumerate(ranks):
        command = [sys.executable, "-P", "-c", WORK, json.dumps(config_to_dict(job)), str(rank)]
        host.serve("worker", *command, ranks[0].address)


def newest() -> int:
    return max(steps_at(RUN), default=0)


def owner() -> str:
    return str(json.loads(storage.read(f"{RUN}/owner.json"))["host"])


def test_whatever_host_is_lost_the_others_end_the_run_with_the_weights_of_one_machine(
    workers: tuple[Host, ...], job: TrainingJob, alone: Path, ledger: Ledger
) -> None:
    first, second, third = workers
    start(job, (first, second))
    until(lambda: newest() >= 3, 900, "a checkpoint")
    assert owner() == first.name

    # 1. Rank 0's host is cut off: it lives on, and holds the lease. Two others resume.
    first.cut()
    second.kill("loop.fit")
    second.services["worker"].wait()
    cut_at, since = newest(), time.monotonic()
    start(job, (second, third))
    until(lambda: newest() > cut_at, 900, "the run to go on")
    assert owner() == second.name
    ledger.note(
        f"run at an S3 URI: rank 0's host cut off after checkpoint {cut_at}", "-",
        f"{time.monotonic() - since:.0f} s, the lease of {LEASE:.0f} s included",
        "steps since that checkpoint",
    )  # fmt: skip

    # 2. The host that was cut off is connected again: it finds another owner and writes nothing more.
    first.mend()
    assert first.services["worker"].wait(900) != 0
    assert owner() == second.name

    # 3. The new rank 0's host dies; the first host resumes from what it never wrote itself.
    until(lambda: newest() > cut_at + 3, 900, "another checkpoint")
    second.kill_all()
    third.kill("loop.fit")
    third.services["worker"].wait()
    killed_at, since = newest(), time.monotonic()
    assert killed_at < STEPS
    start(job, (third, first))
    until(lambda: newest() > killed_at, 900, "the run to go on")
    ledger.note(
        f"the same: rank 0's host killed after checkpoint {killed_at}", "-",
        f"{time.monotonic() - since:.0f} s", "steps since that checkpoint",
    )  # fmt: skip
    assert [host.services["worker"].wait(600) for host in (third, first)] == [0, 0]

    lines = [json.loads(line) for line in storage.read(f"{RUN}/metrics.jsonl").splitlines()]
    theirs = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in lines] == [line["loss"] for line in theirs]
    result = json.loads(storage.read(f"{RUN}/result.json"))
    with storage.local_copy(f"{RUN}/model.safetensors") as path:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == result["model_sha256"]
        ours = CorrFractal.load(path).state_dict()
    weights = CorrFractal.load(alone / "model.safetensors").state_dict()
    assert all(torch.equal(ours[name], weights[name]) for name in weights)
    ledger.note("the same, at its end", "-", "-", "weights and losses bit-identical")


def test_each_host_kept_its_files_to_itself(workers: tuple[Host, ...], folder: Path) -> None:
    """Of the run, nothing is on the file system that hosts could share."""
    shared = [path for path in folder.rglob("job.json") if "tmp" not in path.parts]
    assert shared == []
    for host in workers:
        assert {path.name for path in host.folder.iterdir()} == {"tmp", "worker.log"}
