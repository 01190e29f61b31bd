"""Trainings whose workers and drivers are killed at random steps: are the final weights the same,
bit for bit?

    python benchmarks/faults/training_faults.py SHARDS [--kills 9] [--seed 0] [--steps 60]

The real `corrfractal train` with two workers; with `--alone` the loop of one worker without Ray,
which starts sooner, so that a longer list fits into an hour. One run is left in peace; then runs go
on until all kills are spent: SIGKILL to a worker, to the driver (the same command is run again), or
to the worker that writes a checkpoint while it is half written. Kills come at steps drawn from the
seed. Each run must end in the undisturbed one's weights and losses.
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
@click.option("--steps", default=60, show_default=True, help="Of each run.")
@click.option("--longest", default=12, show_default=True, help="Steps between two kills, at most.")
@click.option("--alone", is_flag=True, help="One worker, without Ray.")
def main(shards: Path, kills: int, seed: int, steps: int, longest: int, alone: bool) -> None:
    """Kill at random, and compare."""
    launch, kinds = (launch_alone, ALONE) if alone else (launch_on_ray, KINDS)
    rng, work = random.Random(seed), Path(tempfile.mkdtemp(prefix="corrfractal-faults-"))
    spent: list[dict[str, Any]] = []
    launch(shards, work / "peace", steps).wait()
    runs = 0
    while len(spent) < kills:
        out = work / f"run{runs}"
        driver = launch(shards, out, steps)
        at = 0
        while len(spent) < kills and driver.poll() is None:
            at += rng.randint(2, longest)
            kind = kinds[len(spent) % len(kinds)]
            if wait_for(partial(reached, out, at), driver):
                victim = find(kind, driver, out, alone)
                if victim is None:
                    break
                done = last_step(out)
                os.kill(victim, signal.SIGKILL)
                if victim == driver.pid:
                    driver.wait()
                whole = max(
                    (int(p.stem[-8:]) for p in (out / "checkpoints").glob("*.json")), default=0
                )
                spent.append(
                    {
                        "fault": kind,
                        "run": runs,
                        "after step": done,
                        "steps done again": max(done - whole, 0),
                    }
                )
                print(f"run {runs}: killed the {kind} after step {done}", flush=True)
                at = done
                if victim == driver.pid:
                    driver = launch(shards, out, steps)
                wait_for(partial(went_on, out, done), driver)
        if (code := driver.wait()) != 0 or not same(out, work / "peace"):
            sys.exit(
                f"run {runs} ended with {code} and other weights than the undisturbed one, see "
                f"{out}"
            )
        runs += 1
    rows = [summary(kind, [fault for fault in spent if fault["fault"] == kind]) for kind in kinds]
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
    """Start ``corrfractal train``, or go on with it; on the Ray cluster of an address, or on its
    own."""
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
    """Start the loop in a process of its own, or go on with it."""
    out.mkdir(exist_ok=True)
    if not (out / "job.json").exists():
        config = with_settings(
            configuration("base", "cpu"), tuple(f"{k}={v}" for k, v in SETTINGS.items()), steps
        )
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


FIT = """
import json, pathlib, sys, torch
from corrfractal.common.config import config_from_dict
from training.job import TrainingJob
from training.loop import fit

torch.set_num_threads(1)
fit(config_from_dict(TrainingJob, json.loads(pathlib.Path(sys.argv[1]).read_text())), torch.device("cpu"))
"""


def wait_for(condition: Callable[[], bool], driver: subprocess.Popen[bytes]) -> bool:
    while driver.poll() is None:
        if condition():
            return True
        time.sleep(0.005)
    return False


def reached(out: Path, step: int) -> bool:
    return last_step(out) >= step


def went_on(out: Path, step: int) -> bool:
    """Whether steps have been done since the kill: the file was cut back to the checkpoint, or has
    grown."""
    return last_step(out) != step


def find(kind: str, driver: subprocess.Popen[bytes], out: Path, alone: bool) -> int | None:
    """The process to kill, once it is where it should be."""
    if kind == "driver" or (kind == "worker" and alone):
        return driver.pid
    while driver.poll() is None:
        if kind == "worker" and (
            workers := sorted(descendants(driver.pid, b"ray::RayTrainWorker"))
        ):
            return workers[-1]
        halves = list((out / "checkpoints").glob(".step-*.pt.*.tmp"))
        if kind != "worker" and halves:
            return int(halves[0].suffixes[-2][1:])
    return None


def last_step(out: Path) -> int:
    path = out / "metrics.jsonl"
    lines = (
        [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
        if path.exists()
        else []
    )
    return int(json.loads(lines[-1])["step"]) if lines else 0


def same(out: Path, other: Path) -> bool:
    """Whether two runs end in the same weights to the last bit, with the same losses on the way."""
    a, b = (CorrFractal.load(run / "model.safetensors").state_dict() for run in (out, other))
    losses = [
        [
            (line["step"], line["loss"])
            for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        ]
        for run in (out, other)
    ]
    return all(torch.equal(a[name], b[name]) for name in b) and losses[0] == losses[1]


def summary(kind: str, faults: list[dict[str, Any]]) -> dict[str, Any]:
    again = [fault["steps done again"] for fault in faults]
    return {
        "SIGKILL to": kind,
        "times": len(faults),
        "after steps": ", ".join(str(fault["after step"]) for fault in faults),
        "steps done again": ", ".join(map(str, again)),
        "final weights": "bit-identical",  # or the runs would have ended this program
    }


if __name__ == "__main__":
    main()
