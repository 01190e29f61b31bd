"""Trainings on a Ray cluster whose nodes are killed and come back.

    python benchmarks/faults/training_nodes.py SHARDS [--kills 4]

Three Ray nodes of one CPU each on this machine, loopback only, and the real `corrfractal train` on
them:

- two workers: SIGKILL to the raylet of a node that trains, at steps drawn from a seed; the third
  node takes its place, and the killed one is started again. The final weights must be the
  undisturbed run's, bit for bit;
- one to two workers on two nodes: one is killed, the run continues with one worker, the node comes
  back, the run takes it in. Every step must be there once, of the same samples: losses equal those
  of two workers throughout until the kill, and the next one within ``TOLERANCE``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from build_faults import descendants
from ray.cluster_utils import Cluster
from training_faults import SETTINGS, last_step, launch_on_ray, reached, same

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import print_table

NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 128 << 20}
ELASTIC = {**SETTINGS, "crop": 96, "checkpoint_every": 10}
TOLERANCE = (
    # relative, of the first loss that one worker sums up alone; over hundreds of steps the runs
    # drift apart
    1e-5
)
PATIENCE = 300.0


@click.command()
@click.argument("shards", type=click.Path(exists=True, path_type=Path))
@click.option("--kills", default=4, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", default=400, show_default=True, help="Of the run that loses nodes.")
@click.option("--elastic-steps", default=600, show_default=True)
def main(shards: Path, kills: int, seed: int, steps: int, elastic_steps: int) -> None:
    work = Path(tempfile.mkdtemp(prefix="corrfractal-nodes-"))
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        rows = [killed(cluster, shards, work, kills, random.Random(seed), steps)]
        rows.append(resized(cluster, shards, work, elastic_steps))
    finally:
        cluster.shutdown()
    print_table("training nodes: raylets killed under `corrfractal train`", rows)
    shutil.rmtree(work)


def killed(
    cluster: Cluster, shards: Path, work: Path, kills: int, rng: random.Random, steps: int
) -> dict[str, Any]:
    """A fixed number of workers, and one node more than they need."""
    nodes = [cluster.add_node(**NODE), cluster.add_node(**NODE)]
    launch_on_ray(shards, work / "peace", steps, cluster=cluster.address).wait()
    out = work / "kills"
    after: list[int] = []
    away: list[int] = []
    driver = launch_on_ray(shards, out, steps, cluster=cluster.address)
    while len(after) < kills:
        at = last_step(out) + rng.randint(5, steps // (kills + 1))
        wait(partial(reached, out, at), f"step {at}")
        victim = next(node for node in nodes if trains(node))
        done, file, since = last_step(out), inode(out), time.monotonic()
        kill(victim)
        after.append(done)
        wait(lambda file=file: inode(out) != file and last_step(out) > 0, "training to go on")  # type: ignore[misc]
        away.append(round(time.monotonic() - since))
        print(f"killed a node after step {done}; {away[-1]} s later the run went on", flush=True)
        cluster.remove_node(victim, allow_graceful=False)
        nodes = [*(node for node in nodes if node is not victim), cluster.add_node(**NODE)]
    if driver.wait() != 0 or not same(out, work / "peace"):
        sys.exit(
            f"the run ended with {driver.returncode} and other weights than the undisturbed one, "
            f"see {out}"
        )
    cluster.remove_node(nodes[1], allow_graceful=False)
    return {
        "fault": "raylet of a node killed, two workers",
        "times": kills,
        "after steps": listed(after),
        "s until it went on": listed(away),
        "workers": "2",
        "result": "weights bit-identical",
    }


def resized(cluster: Cluster, shards: Path, work: Path, steps: int) -> dict[str, Any]:
    """As many workers as there are nodes: two, one, two."""
    node = next(node for node in cluster.list_all_nodes() if node is not cluster.head_node)
    launch_on_ray(shards, work / "two", steps, cluster=cluster.address, settings=ELASTIC).wait()
    out, since = work / "elastic", time.monotonic()
    driver = launch_on_ray(shards, out, steps, "1-2", cluster.address, ELASTIC)
    wait(partial(reached, out, 30), "step 30")
    done, since = last_step(out), time.monotonic()
    kill(node)
    wait(lambda: worlds(out)[-1:] == [1], "one worker to go on")
    alone = round(time.monotonic() - since)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(**NODE)
    since = time.monotonic()
    wait(lambda: worlds(out)[-1:] == [2], "two workers to go on")
    again = round(time.monotonic() - since)
    if driver.wait() != 0:
        sys.exit(f"the elastic run ended with {driver.returncode}, see {out}")
    ours, theirs = lines(out), lines(work / "two")
    if [line["step"] for line in ours] != list(range(1, steps + 1)):
        sys.exit(f"a step is missing or twice in {out}")
    off = [abs(a["loss"] / b["loss"] - 1) for a, b in zip(ours, theirs, strict=True)]
    changed = next(k for k, line in enumerate(ours) if line["workers"] == 1)
    if any(off[:changed]) or off[changed] > TOLERANCE:
        sys.exit(
            f"step {changed + 1} had other samples: its loss is off by {off[changed]:.1e}, see "
            f"{out}"
        )
    return {
        "fault": "raylet killed, one to two workers; a node joins",
        "times": 1,
        "after steps": str(done),
        "s until it went on": listed([alone, again]),
        "workers": listed(worlds(out)),
        "result": f"each step once; loss equal, then off by {off[changed]:.0e}, on average {fmean(off):.2%}",
    }


def kill(node: Any) -> None:
    os.kill(raylet(node), signal.SIGKILL)


def raylet(node: Any) -> int:
    (process,) = node.all_processes["raylet"]
    return int(process.process.pid)


def inode(out: Path) -> int:
    """Of the metrics: whoever goes on from a checkpoint writes the file anew."""
    return (out / "metrics.jsonl").stat().st_ino


def trains(node: Any) -> bool:
    return bool(descendants(raylet(node), b"ray::RayTrainWorker"))


def lines(out: Path) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def worlds(out: Path) -> list[int]:
    """The numbers of workers that the run had, one after another."""
    had: list[int] = []
    for line in lines(out):
        if [line["workers"]] != had[-1:]:
            had.append(int(line["workers"]))
    return had


def wait(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.05)


def listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


if __name__ == "__main__":
    main()
