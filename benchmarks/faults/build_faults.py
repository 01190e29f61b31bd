"""Builds with workers, nodes and drivers killed at random: every byte must stay the same.

    python benchmarks/faults/build_faults.py VIDEOS [--kills 20] [--seed 0]

Runs a Ray cluster of a head and two nodes of one CPU each on this machine. One build is
undisturbed. Then builds into new folders are disturbed until all kills are used: SIGKILL to a
worker during its task, to a node (its raylet and all its workers; a new node joins), or to the
driver (the same command is run again). Every build must end with the files of the undisturbed
one, byte for byte.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

KINDS = ("worker", "node", "driver")


@click.command()
@click.argument("videos", type=click.Path(exists=True, path_type=Path))
@click.option("--kills", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--longest", default=6.0, show_default=True, help="Maximum number of seconds between two kills."
)
@click.option(
    "--config",
    type=click.Path(exists=True, path_type=Path),
    help="Configuration for `corrfractal precompute`.",
)
def main(videos: Path, kills: int, seed: int, longest: float, config: Path | None) -> None:
    """Kill processes at random times, and compare the files."""
    from ray.cluster_utils import Cluster

    rng = random.Random(seed)
    work = Path(tempfile.mkdtemp(prefix="corrfractal-faults-"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    spent: Counter[str] = Counter()
    builds = 0
    try:
        build(cluster, videos, work / "undisturbed", config).wait()
        expected = contents(work / "undisturbed")
        while sum(spent.values()) < kills:
            out = work / f"build{builds}"
            driver = build(cluster, videos, out, config)
            while driver.poll() is None and sum(spent.values()) < kills:
                # Ray starts its workers first; kills count only while a task runs.
                while driver.poll() is None and not tasks():
                    time.sleep(0.02)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(rng.uniform(0.0, longest))
                    break
                kind = KINDS[sum(spent.values()) % len(KINDS)]
                if kind == "worker":
                    if not tasks():
                        continue
                    os.kill(rng.choice(tasks()), signal.SIGKILL)
                elif kind == "node":
                    cluster.remove_node(nodes.pop(rng.randrange(2)), allow_graceful=False)
                    nodes.append(cluster.add_node(num_cpus=1))
                else:
                    driver.kill()
                    driver.wait()
                    driver = build(cluster, videos, out, config)
                spent[kind] += 1
                print(
                    f"build {builds}: killed a {kind}, {len(list(out.glob('shard-*.json')))} "
                    "shards written",
                    flush=True,
                )
            code = driver.wait()
            if code != 0 or contents(out) != expected:
                sys.exit(
                    f"build {builds} ended with {code} and its files differ from the undisturbed "
                    f"build's, see {out}"
                )
            builds += 1
    finally:
        cluster.shutdown()
    shutil.rmtree(work)
    killed = ", ".join(f"{spent[kind]} {kind}s" for kind in KINDS)
    print(
        f"{builds} builds of {len(expected)} files, killed {killed}: every file the same, byte for "
        "byte"
    )


def build(cluster: object, videos: Path, out: Path, config: Path | None) -> subprocess.Popen[bytes]:
    """Start ``corrfractal precompute`` on the cluster."""
    command = [sys.executable, "-m", "corrfractal", "precompute", str(videos), "--out", str(out)]
    if config is not None:
        command += ["--config", str(config)]
    environment = {**os.environ, "RAY_ADDRESS": str(cluster.address)}  # type: ignore[attr-defined]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".state"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def tasks() -> list[int]:
    """Ids of the worker processes of our cluster that run a task."""
    return sorted(descendants(os.getpid(), b"ray::make_shard"))


def descendants(ancestor: int, title: bytes) -> Iterator[int]:
    """Yield the ids of descendants of a process whose command line starts with ``title``."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    for pid in parents:
        current = pid
        while current not in (0, 1, ancestor):
            current = parents.get(current, 0)
        with contextlib.suppress(OSError):
            if current == ancestor and Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title):
                yield pid


if __name__ == "__main__":
    main()
