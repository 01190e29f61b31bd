"""Checkpoints of a run at a URI: what the loop waits for, and the seconds that pass beside it.

    python benchmarks/checkpoint_upload.py [--profile gpu]

The state of the paper's network with Adam's moments goes to a local folder, and to an S3 server on
loopback (moto, a process of its own). Wall time:

- *loop waits*: until the state is copied to main memory, while no other checkpoint is on its way;
- *until it counts*: from then until the last object, the companion, is there. If the next
  checkpoint is due earlier, the loop waits for the rest;
- *steps beside it*: how much longer a matrix product takes meanwhile on one thread, of two cores.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import click
import torch
from measure import print_table

from corrfractal.files import storage
from training.config import configuration
from training.loop import build
from training.state.checkpoint import Checkpoint, CheckpointWriter
from training.state.run_folder import RunFolder, open_run_folder

REPEATS = 5
PRODUCT = 512  # side of the matrices


@click.command()
@click.option("--profile", type=click.Choice(["cpu", "gpu"]), default="gpu", show_default=True)
def main(profile: str) -> None:
    torch.set_num_threads(1)
    checkpoint = full_state(profile)
    rows = []
    with tempfile.TemporaryDirectory() as local, s3_server() as bucket:
        for place, out in (("local folder", local), ("S3 on loopback", f"{bucket}/run")):
            with open_run_folder(out, rank=0, group=None) as folder:
                if storage.is_uri(out):
                    (folder.local / "metrics.jsonl").write_text("{}\n")
                rows.append({"run folder": place, **measure(folder, checkpoint)})
    print_table(f"upload: a checkpoint of the {profile} profile, wall seconds", rows)


def full_state(profile: str) -> Checkpoint:
    """A checkpoint as after a step: a step with zero gradients creates Adam's moments."""
    model, optimizer = build(configuration("base", profile), torch.device("cpu"), 1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return Checkpoint(
        step=1,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        shards_digest="",
        config_digest="",
        run_id="",
    )


def measure(folder: RunFolder, checkpoint: Checkpoint) -> dict[str, Any]:
    alone = statistics.median(product_seconds() for _ in range(50))
    waits = []
    rests = []
    beside: list[float] = []

    def publish(path: Path, hurry: threading.Event) -> None:
        folder.publish_checkpoint(path, 3, hurry)

    with CheckpointWriter(folder.checkpoints, 1, publish) as writer:
        for _ in range(REPEATS):
            started = time.monotonic()
            writer.save(checkpoint)
            saved = time.monotonic()
            assert writer._thread is not None
            while writer._thread.is_alive():
                beside.append(product_seconds())
            writer.join()
            waits.append(saved - started)
            rests.append(time.monotonic() - saved)
    size = next(folder.checkpoints.glob("*.pt")).stat().st_size
    return {
        "MB": size / 1e6,
        "loop waits": min(waits),
        "until it counts": statistics.median(rests),
        "steps beside it": statistics.mean(beside) / alone,
    }


def product_seconds() -> float:
    started = time.monotonic()
    a = torch.ones(PRODUCT, PRODUCT)
    for _ in range(4):
        a = a @ a / PRODUCT
    return time.monotonic() - started


@contextmanager
def s3_server() -> Iterator[str]:
    """The URI of a bucket on a server of its own process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                boto3.client("s3").create_bucket(Bucket="bucket")
                break
            except Exception:
                time.sleep(0.2)
        yield "s3://bucket"
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
