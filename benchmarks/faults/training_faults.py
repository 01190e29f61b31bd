"""Trainings with workers and drivers killed at random steps: the weights must stay the same.

    python benchmarks/faults/training_faults.py SHARDS [--kills 9] [--seed 0] [--steps 60]

Runs the real `corrfractal train` with two workers. With `--alone`, it runs the loop of one worker
without Ray, which starts faster, so that more kills fit into an hour. One run is undisturbed. Then
runs are disturbed until all kills are used: SIGKILL to a worker, to the driver (the same command is
run again), or to the worker while it writes a checkpoint. Kills come at steps drawn from the seed.
Each run must end with the weights and losses of the undisturbed one, bit for bit.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from build_faults import descendants

from corrfractal import CorrFractal
from corrfractal.common.config import config_to_dict
from corrfractal.registry.store import sqlite_uri
from corrfractal.shards.manifest import load_manifest
from training.config import configuration, with_settings
from training.job import TrainingJob
from training.state.run_log import start_run

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import print_table

KINDS = ("worker", "driver", "worker at a half-written checkpoint")
ALONE = ("worker", "worker at a half-written checkpoint")
SETTINGS = {"crop": 32, "log_every": 1, "checkpoint_every": 3, "network.width": 8}


@click.command()
@click.argument("shards", type=click.Path(exists=True, path_type=Path))
@click.option("--kills", default=9, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", default=60, show_default=True, help="Number of steps of each run.")
@click.option(
    "--longest", default=12, show_default=True, help="Maximum number of steps between two kills."
)
@click.option("--alone", is_flag=True, help="One worker, without Ray.")
def main(shards: Path, kills: int, seed: int, steps: int, longest: int, alone: bool) -> None:
    """Kill processes at random steps, and compare the weights."""
    launch = launch_alone if alone else launch_on_ray
    kinds = ALONE if alone else KINDS
    rng = random.Random(seed)
    work = Path(tempfile.mkdtemp(prefix="corrfractal-faults-"))
    launch(shards, work / "undisturbed", steps).wait()

    faults: list[dict[str, Any]] = []
    runs = 0
    while len(faults) < kills:
        out = work / f"run{runs}"
        driver = launch(shards, out, steps)
        target = 0
        while len(faults) < kills and driver.poll() is None:
            target += rng.randint(2, longest)
            kind = kinds[len(faults) % len(kinds)]
            if not wait_for(partial(reached, out, target), driver):
                continue
            victim = find_victim(kind, driver, out, alone)
            if victim is None:
                break
            step = last_step(out)
            os.kill(victim, signal.SIGKILL)
            if victim == driver.pid:
                driver.wait()

            checkpoints = [int(p.stem[-8:]) for p in (out / "checkpoints").glob("*.json")]
            faults.append(
                {
                    "fault": kind,
                    "run": runs,
                    "after step": step,
                    "steps repeated": max(step - max(checkpoints, default=0), 0),
                }
            )
            print(f"run {runs}: killed the {kind} after step {step}", flush=True)

            # The next kill is counted from here, once the run has resumed.
            target = step
            if victim == driver.pid:
                driver = launch(shards, out, steps)
            wait_for(partial(has_resumed, out, step), driver)

        code = driver.wait()
        if code != 0 or not equal_runs(out, work / "undisturbed"):
            sys.exit(
                f"run {runs} ended with {code} and its weights differ from the undisturbed run's, "
                f"see {out}"
            )
        runs += 1

    rows = [summary(kind, [fault for fault in faults if fault["fault"] == kind]) for kind in kinds]
    who = "one worker without Ray" if alone else "two workers"
    print_table(f"training faults: {kills} kills in {runs} runs of {steps} steps, {who}", rows)
    shutil.rmtree(work)


def launch_on_ray(
    shards: Path,
    out: Path,
    steps: int,
    workers: str = "2",
    cluster: str = "",
    settings: Mapping[str, Any] = SETTINGS,
) -> subprocess.Popen[bytes]:
    """Start or resume ``corrfractal train``.

    Args:
        cluster: address of a Ray cluster; empty: the command starts its own.
    """
    command = [
        sys.executable,
        "-m",
        "corrfractal",
        "train",
        str(shards),
        "--out",
        str(out),
        "--profile",
        "cpu",
    ]
    command += ["--workers", workers, "--steps", str(steps), "--max-failures", "-1"]
    command += ["--tracking-uri", sqlite_uri(out.parent / "mlflow.db")]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    environment = {**os.environ, "RAY_ADDRESS": cluster}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def launch_alone(shards: Path, out: Path, steps: int) -> subprocess.Popen[bytes]:
    """Start or resume the training loop in a process of its own, without Ray."""
    out.mkdir(exist_ok=True)
    if not (out / "job.json").exists():
        settings = tuple(f"{key}={value}" for key, value in SETTINGS.items())
        config = with_settings(configuration("base", "cpu"), settings, steps)
        uri = sqlite_uri(out.parent / "mlflow.db")
        digest = load_manifest(shards).digest
        job = TrainingJob(
            shards=str(shards),
            shards_digest=digest,
            out=str(out),
            config=config,
            total=steps,
            tracking_uri=uri,
            run_id=start_run(uri, out.name, {}, shards, digest),
        )
        (out / "job.json").write_text(json.dumps(config_to_dict(job)))
    return subprocess.Popen(
        [sys.executable, "-c", FIT, str(out / "job.json")], stdout=subprocess.DEVNULL
    )


# Trains in this process; argument: a TrainingJob as JSON.
FIT = """
import json, pathlib, sys, torch
from corrfractal.common.config import config_from_dict
from training.job import TrainingJob
from training.loop import fit

torch.set_num_threads(1)
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
fit(config_from_dict(TrainingJob, job), torch.device("cpu"))
"""


def wait_for(condition: Callable[[], bool], driver: subprocess.Popen[bytes]) -> bool:
    """Wait until a condition holds; False if the driver ends first."""
    while driver.poll() is None:
        if condition():
            return True
        time.sleep(0.005)
    return False


def reached(out: Path, step: int) -> bool:
    return last_step(out) >= step


def has_resumed(out: Path, step: int) -> bool:
    """Whether training has continued since a kill after ``step``.

    On resuming, ``metrics.jsonl`` is truncated to the checkpoint's step, and then grows again.
    """
    return last_step(out) != step


def find_victim(kind: str, driver: subprocess.Popen[bytes], out: Path, alone: bool) -> int | None:
    """Wait for the process to kill, and return its id; None if the driver ends first."""
    if kind == "driver" or (kind == "worker" and alone):
        return driver.pid
    while driver.poll() is None:
        if kind == "worker":
            workers = sorted(descendants(driver.pid, b"ray::RayTrainWorker"))
            if workers:
                return workers[-1]
        else:
            # The name of a temporary file contains the id of the process that writes it.
            unfinished = list((out / "checkpoints").glob(".step-*.pt.*.tmp"))
            if unfinished:
                return int(unfinished[0].suffixes[-2][1:])
    return None


def last_step(out: Path) -> int:
    """Last step in ``metrics.jsonl``; 0 before the first one."""
    path = out / "metrics.jsonl"
    if not path.exists():
        return 0
    # The last line may be incomplete.
    lines = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def equal_runs(out: Path, other: Path) -> bool:
    """Whether two runs have bit-identical weights, and logged the same losses."""
    weights = CorrFractal.load(out / "model.safetensors").state_dict()
    expected = CorrFractal.load(other / "model.safetensors").state_dict()
    if not all(torch.equal(weights[name], expected[name]) for name in expected):
        return False
    return losses(out) == losses(other)


def losses(out: Path) -> list[tuple[int, float]]:
    """Steps and losses in ``metrics.jsonl``."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def summary(kind: str, faults: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "SIGKILL to": kind,
        "times": len(faults),
        "after steps": ", ".join(str(fault["after step"]) for fault in faults),
        "steps repeated": ", ".join(str(fault["steps repeated"]) for fault in faults),
        # Otherwise the program has ended before.
        "final weights": "bit-identical",
    }


if __name__ == "__main__":
    main()
