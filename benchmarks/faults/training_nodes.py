"""Trainings on a Ray cluster whose nodes are killed and replaced.

    python benchmarks/faults/training_nodes.py SHARDS [--kills 4]

Three Ray nodes of one CPU each on this machine, loopback only, run the real `corrfractal train`:

- two workers: SIGKILL to the raylet of a node that trains, at steps drawn from a seed. The third
  node replaces it, and a new node joins. The final weights must equal the undisturbed run's, bit
  for bit;
- one to two workers on two nodes: one node is killed, the run continues with one worker, a node
  joins, and the run scales up again. Every step must occur once and use the same samples: the
  losses equal those of two workers until the kill, and the next one differs by at most
  ``TOLERANCE``.
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
from training_faults import SETTINGS, equal_runs, last_step, launch_on_ray, reached

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import print_table

NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 128 << 20}
ELASTIC = {**SETTINGS, "crop": 96, "checkpoint_every": 10}
# Relative difference of the first loss that a single worker computes, which sums in another order.
# Later losses drift apart over hundreds of steps.
TOLERANCE = 1e-5
TIMEOUT_SECONDS = 300.0


@click.command()
@click.argument("shards", type=click.Path(exists=True, path_type=Path))
@click.option("--kills", default=4, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--steps", default=400, show_default=True, help="Number of steps of the run that loses nodes."
)
@click.option("--elastic-steps", default=600, show_default=True)
def main(shards: Path, kills: int, seed: int, steps: int, elastic_steps: int) -> None:
    work = Path(tempfile.mkdtemp(prefix="corrfractal-nodes-"))
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        rows = [kill_nodes(cluster, shards, work, kills, random.Random(seed), steps)]
        rows.append(resize(cluster, shards, work, elastic_steps))
    finally:
        cluster.shutdown()
    print_table("training nodes: raylets killed under `corrfractal train`", rows)
    shutil.rmtree(work)


def kill_nodes(
    cluster: Cluster, shards: Path, work: Path, kills: int, rng: random.Random, steps: int
) -> dict[str, Any]:
    """Kill nodes under two workers, which have one spare node."""
    nodes = [cluster.add_node(**NODE), cluster.add_node(**NODE)]
    launch_on_ray(shards, work / "undisturbed", steps, cluster=cluster.address).wait()
    out = work / "kills"
    kill_steps: list[int] = []
    pauses: list[int] = []
    driver = launch_on_ray(shards, out, steps, cluster=cluster.address)
    while len(kill_steps) < kills:
        at = last_step(out) + rng.randint(5, steps // (kills + 1))
        wait(partial(reached, out, at), f"step {at}")
        victim = next(node for node in nodes if trains(node))
        step = last_step(out)
        file = inode(out)
        since = time.monotonic()
        kill(victim)
        kill_steps.append(step)
        wait(partial(has_new_metrics, out, file), "training to resume")
        pauses.append(round(time.monotonic() - since))
        print(f"killed a node after step {step}; resumed {pauses[-1]} s later", flush=True)
        cluster.remove_node(victim, allow_graceful=False)
        nodes.remove(victim)
        nodes.append(cluster.add_node(**NODE))

    if driver.wait() != 0 or not equal_runs(out, work / "undisturbed"):
        sys.exit(
            f"the run ended with {driver.returncode} and its weights differ from the undisturbed "
            f"run's, see {out}"
        )
    cluster.remove_node(nodes[1], allow_graceful=False)
    return {
        "fault": "raylet of a node killed, two workers",
        "times": kills,
        "after steps": listed(kill_steps),
        "s until it resumed": listed(pauses),
        "workers": "2",
        "result": "weights bit-identical",
    }


def resize(cluster: Cluster, shards: Path, work: Path, steps: int) -> dict[str, Any]:
    """Scale a run with its nodes: two workers, one, two."""
    node = next(node for node in cluster.list_all_nodes() if node is not cluster.head_node)
    launch_on_ray(shards, work / "two", steps, cluster=cluster.address, settings=ELASTIC).wait()
    out = work / "elastic"
    driver = launch_on_ray(shards, out, steps, "1-2", cluster.address, ELASTIC)
    wait(partial(reached, out, 30), "step 30")
    step = last_step(out)
    since = time.monotonic()
    kill(node)
    wait(lambda: worker_counts(out)[-1:] == [1], "the run to continue with one worker")
    scaled_down = round(time.monotonic() - since)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(**NODE)
    since = time.monotonic()
    wait(lambda: worker_counts(out)[-1:] == [2], "the run to continue with two workers")
    scaled_up = round(time.monotonic() - since)
    if driver.wait() != 0:
        sys.exit(f"the elastic run ended with {driver.returncode}, see {out}")

    ours = metrics(out)
    expected = metrics(work / "two")
    if [line["step"] for line in ours] != list(range(1, steps + 1)):
        sys.exit(f"a step is missing or repeated in {out}")
    off = [abs(a["loss"] / b["loss"] - 1) for a, b in zip(ours, expected, strict=True)]
    changed = next(k for k, line in enumerate(ours) if line["workers"] == 1)
    if any(off[:changed]) or off[changed] > TOLERANCE:
        sys.exit(
            f"step {changed + 1} used other samples: its loss differs by {off[changed]:.1e}, see "
            f"{out}"
        )
    return {
        "fault": "raylet killed, one to two workers; a node joins",
        "times": 1,
        "after steps": str(step),
        "s until it resumed": listed([scaled_down, scaled_up]),
        "workers": listed(worker_counts(out)),
        "result": (
            f"each step once; loss equal, then off by {off[changed]:.0e}, "
            f"on average {fmean(off):.2%}"
        ),
    }


def kill(node: Any) -> None:
    os.kill(raylet(node), signal.SIGKILL)


def raylet(node: Any) -> int:
    (process,) = node.all_processes["raylet"]
    return int(process.process.pid)


def inode(out: Path) -> int:
    """Inode of ``metrics.jsonl``, which a resumed run replaces."""
    return (out / "metrics.jsonl").stat().st_ino


def has_new_metrics(out: Path, file: int) -> bool:
    """Whether ``metrics.jsonl`` is no longer the file with this inode, and has a step."""
    return inode(out) != file and last_step(out) > 0


def trains(node: Any) -> bool:
    """Whether a training worker runs on a node."""
    return bool(descendants(raylet(node), b"ray::RayTrainWorker"))


def metrics(out: Path) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def worker_counts(out: Path) -> list[int]:
    """Numbers of workers in the order in which the run had them, without repeats."""
    counts: list[int] = []
    for line in metrics(out):
        if [line["workers"]] != counts[-1:]:
            counts.append(int(line["workers"]))
    return counts


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited {TIMEOUT_SECONDS:.0f} s for {what}")
        time.sleep(0.05)


def listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


if __name__ == "__main__":
    main()
