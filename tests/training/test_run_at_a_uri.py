"""A run's folder at a URI: killed, contested and cut off from its store, it ends at the weights of
the local run."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corrfractal import CorrFractal
from corrfractal.common.config import config_to_dict
from corrfractal.common.errors import CallError, CorrFractalError
from corrfractal.files import lease, storage
from corrfractal.files.lease import Lease, LeaseLostError
from corrfractal.files.mirror import Mirror
from corrfractal.shards.manifest import load_manifest
from training import loop
from training.config import TrainingConfig
from training.dryrun import dry_run
from training.job import TrainingJob
from training.loop import Outcome, fit
from training.request import check_request
from training.run import train
from training.state import run_folder
from training.state.run_folder import CHECKPOINTS, steps_at
from training.state.run_log import start_run
from training.state.stop import request_stop, stop_requested, withdraw_stop

# Kills itself at the given number of objects that a checkpoint consists of.
FIT = """
import json, os, signal, sys, torch
from corrfractal.common.config import config_from_dict
from corrfractal.files import lease, storage
from training.job import TrainingJob
from training.loop import fit
lease.SECONDS = 2.0
upload, left = storage.upload, int(sys.argv[2])
def counted(path, uri):
    global left
    if "/checkpoints/" in uri:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    upload(path, uri)
storage.upload = counted
torch.set_num_threads(1)
fit(config_from_dict(TrainingJob, json.loads(sys.argv[1])), torch.device("cpu"))
"""

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def config(tiny_config: TrainingConfig) -> TrainingConfig:
    """That of the first run of ``registered``, with more checkpoints and log lines."""
    return replace(tiny_config, steps=4, seed=0, picture_every=4, checkpoint_every=1, log_every=1)


@pytest.fixture
def job(
    config: TrainingConfig, tiny_shards: Path, tmp_path: Path, s3: str, store: str
) -> TrainingJob:
    digest = load_manifest(tiny_shards).digest
    torch.set_num_threads(1)
    return TrainingJob(
        shards=str(tiny_shards),
        shards_digest=digest,
        out=f"{s3}/{tmp_path.name}",
        config=config,
        total=4,
        tracking_uri=store,
        run_id=start_run(store, "remote", {}, tiny_shards, digest),
    )


@pytest.fixture
def local(registered: tuple[Path, list[Path]]) -> Path:
    """An uninterrupted run in a local folder."""
    return registered[1][0]


def assert_same_run(job: TrainingJob, local: Path) -> None:
    """The same weights to the last bit, each step logged once, and every file of the local run."""
    with storage.local_copy(storage.join(job.out, "model.safetensors")) as path:
        result = json.loads(storage.read(storage.join(job.out, "result.json")))
        assert result["model_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        ours = CorrFractal.load(path).state_dict()
    theirs = CorrFractal.load(local / "model.safetensors").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lines = storage.read(storage.join(job.out, "metrics.jsonl")).splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert storage.listing(storage.join(job.out, "pictures"))[0] == ["step-00000004.png"]


def assert_checkpoints_are_whole(out: str) -> None:
    for step in steps_at(out):
        base = storage.join(out, f"{CHECKPOINTS}/step-{step:08d}")
        companion = json.loads(storage.read(f"{base}.json"))
        assert companion["sha256"] == storage.sha256(f"{base}.pt")


def calling(at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call ``at(step)`` between the steps of a run."""
    plain, step = loop.train_step, iter(range(99))

    def train_step(*arguments: object):
        at(next(step))
        return plain(*arguments)

    monkeypatch.setattr(loop, "train_step", train_step)


def test_killed_between_objects_it_resumes_elsewhere_to_the_weights_of_the_local_run(
    job: TrainingJob, local: Path, tmp_path: Path
) -> None:
    """Each start has a temporary folder of its own: it finds nothing but the store."""
    chosen = random.Random(7)
    kills = [chosen.randrange(4), 2 + chosen.randrange(2)]  # of two objects a checkpoint
    for number, objects in enumerate(kills):
        before = steps_at(job.out)
        scratch = tmp_path / f"machine{number}"
        scratch.mkdir()
        command = [sys.executable, "-c", FIT, json.dumps(config_to_dict(job)), str(objects)]
        process = subprocess.run(
            command,
            env={**os.environ, "TMPDIR": str(scratch)},
            check=False,
            capture_output=True,
            text=True,
        )
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert len(steps_at(job.out)) == len(before) + objects // 2
        assert_checkpoints_are_whole(job.out)
    assert fit(job, torch.device("cpu")) is Outcome.FINISHED
    assert_same_run(job, local)
    assert_checkpoints_are_whole(job.out)
    assert steps_at(job.out) == [2, 3, 4]


def test_a_damaged_newest_checkpoint_in_the_store_is_skipped(
    job: TrainingJob, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    calling(stop, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(job, torch.device("cpu"))
    monkeypatch.undo()
    assert steps_at(job.out) == [1, 2, 3]
    storage.write(storage.join(job.out, f"{CHECKPOINTS}/step-00000003.pt"), b"half a file")
    assert fit(job, torch.device("cpu")) is Outcome.FINISHED
    assert_same_run(job, local)


def test_a_second_driver_is_refused_with_the_name_of_the_first(
    job: TrainingJob, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS", 1.5)
    with (
        Lease(job.out, "training"),
        pytest.raises(CorrFractalError, match=rf"another training is writing to {job.out} \(proc"),
    ):
        train(tiny_shards, job.out, job.config, tracking_uri=job.tracking_uri, workers=1)
    assert storage.listing(job.out) == (["owner.json"], [])


def test_a_run_that_was_taken_over_stops_and_writes_nothing_more(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[int, str]] = {}

    def at(step: int) -> None:
        if step == 2:
            while steps_at(job.out) != [1, 2]:
                time.sleep(0.01)
            holder = json.loads(storage.read(storage.join(job.out, lease.OWNER)))
            taken = json.dumps({**holder, "attempt": "other", "host": "elsewhere"}).encode()
            storage.write(storage.join(job.out, lease.OWNER), taken)
            seen.update(storage.file_facts(job.out))

    calling(at, monkeypatch)
    with pytest.raises(LeaseLostError, match=r"taken over by another training \(.* on elsewhere"):
        fit(job, torch.device("cpu"))
    assert steps_at(job.out) == [1, 2]
    now = storage.file_facts(job.out)
    assert {name: now[name] for name in seen} == seen
    assert not {"model.safetensors", "result.json"} & set(now)


@pytest.fixture
def switch(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Switches a real S3 server off and on; what it holds stays."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    servers = [ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)]
    servers[0].start()
    port = servers[0].get_host_and_port()[1]

    def turn(on: bool) -> None:
        if on:
            servers.append(ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False))
            servers[-1].start()
        else:
            servers[-1].stop()

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    S3FileSystem.clear_instance_cache()
    yield turn
    servers[-1].stop()
    S3FileSystem.clear_instance_cache()


def test_a_store_that_is_away_for_seconds_delays_files_and_loses_none(
    job: TrainingJob,
    local: Path,
    switch: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warned, warn = threading.Event(), Mirror._warn

    def noted(mirror: Mirror, exc: OSError) -> None:
        warn(mirror, exc)
        warned.set()

    def mend() -> None:
        warned.wait(60)
        switch(True)

    def at(step: int) -> None:
        if step == 2:
            switch(False)
            threading.Thread(target=mend).start()

    monkeypatch.setattr(Mirror, "_warn", noted)
    calling(at, monkeypatch)
    assert fit(job, torch.device("cpu")) is Outcome.FINISHED
    assert_same_run(job, local)
    assert 4 in steps_at(job.out)
    messages = storage.read(storage.join(job.out, "messages.log")).decode()
    assert f"{job.out} takes no files" in messages


def test_a_request_to_stop_leaves_a_checkpoint_of_the_last_step(
    job: TrainingJob, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = threading.Event()

    def looked(out: str) -> bool:
        if stop_requested(out):
            threading.Timer(0.2, seen.set).start()  # after the folder has taken note
            return True
        return False

    monkeypatch.setattr(run_folder, "stop_requested", looked)

    def at(step: int) -> None:
        if step == 1:
            request_stop(job.out)
            assert seen.wait(60)

    rare = replace(job, config=replace(job.config, checkpoint_every=99))
    calling(at, monkeypatch)
    assert fit(rare, torch.device("cpu")) is Outcome.STOPPED
    monkeypatch.undo()
    assert steps_at(job.out) == [2]
    withdraw_stop(job.out)
    assert fit(rare, torch.device("cpu")) is Outcome.FINISHED
    assert_same_run(job, local)


def test_a_call_is_checked_and_estimated_at_a_uri_as_in_a_folder(
    job: TrainingJob, tiny_shards: Path
) -> None:
    def asked(config: TrainingConfig) -> TrainingJob:
        return check_request(tiny_shards, job.out, config, job.tracking_uri, (1, 2))[0]

    assert asked(job.config).out == job.out
    storage.write(storage.join(job.out, "metrics.jsonl"), b"of somebody else")
    with pytest.raises(CallError, match=r"metrics\.jsonl exists, and was not written by this"):
        asked(job.config)
    storage.write(storage.join(job.out, "job.json"), json.dumps(config_to_dict(job)).encode())
    assert dry_run(tiny_shards, job.out, job.config, (1, 1), job.tracking_uri).resumes_at == 0
    with pytest.raises(CallError, match=r"holds another run: 'config\.accumulate'"):
        asked(replace(job.config, accumulate=2))
    with pytest.raises(CallError, match="leave the password out"):
        check_request(tiny_shards, "s3://ann:pw@bucket/x", job.config, job.tracking_uri, (1, 2))


def test_a_file_uri_is_a_local_path() -> None:
    assert storage.place("file:///data/run") == Path("/data/run")
    assert storage.place("runs/first") == Path("runs/first")
    assert storage.place("s3://bucket/run") == "s3://bucket/run"
