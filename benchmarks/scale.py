"""Builds that grow: each property of a large data set beside its bar.

    python benchmarks/scale.py DATA [--parts bytes,rebuild,driver,window,lanes,index] [--json]
        [--short]

DATA holds the folder train_videos. Properties by number:

- bytes: what a build of these videos and a second one read from an object store, counted at a real
  server of the S3 protocol on loopback (1, 2, 3; see ``scale_bytes.py``);
- rebuild: shards that the real planner changes when one of 10,000 simulated sources is added or
  removed (4), and builds of real videos that ended in the same files: from nothing with one worker
  and with two, after an addition, and after a kill (4, 5);
- driver: a build over a simulated archive of 10^4, 10^5 and 10^6 sources with trivial tasks:
  seconds of planning and peak memory (9; see ``scale_driver.py``);
- window: tasks that run and that are pending while a node joins a cluster (10);
- lanes: bytes that 1, 4 and 16 hosts fetch in an epoch of training (6; see ``lanes.py``);
- index: seconds and memory until a training worker has its first batch of a data set of 10^5, 10^6
  and 3 * 10^6 clips (8; see ``scale_index.py``);
- files: a build over 20,000 small real files, killed and resumed, and again after one is added,
  removed and changed (3, 4, 5; see ``scale_files.py``). Only where ``--parts`` names it: on two
  cores it takes more than 20 minutes.

``--short`` takes a minute: ten videos, archives of 10^3 and 10^4 sources, 10^5 clips, 200 files.
The exit status is 1 if a bar is missed.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from lanes import lanes_part
from measure import print_table
from scale_bytes import measure_bytes
from scale_driver import measure_driver
from scale_files import FILES, build_rows, measure_files
from scale_index import measure_index

PARTS = ("bytes", "rebuild", "driver", "window", "lanes", "index")
SIMULATED_SOURCES = 10_000
CLIPS = (100_000, 1_000_000, 3_000_000)
SHORT_CLIPS = (100_000,)
PLANNING_SECONDS = 30
DRIVER_MB = 1000
FIRST_BATCH_SECONDS = 2
WORKER_MB = 150


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--short", is_flag=True, help="A minute, with small sizes.")
def main(data: Path, parts: str, as_json: bool, short: bool) -> None:
    """Measure, and compare with the bars."""
    rows: list[dict[str, Any]] = []
    details: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        videos = some_videos(data / "train_videos", Path(work), 10 if short else 30)
        for part in parts.split(","):
            # Progress and reports of builds go to stderr and must not mix with the JSON.
            with contextlib.redirect_stdout(sys.stderr):
                measured, found = {
                    "bytes": lambda: bytes_part(videos),
                    "rebuild": lambda: rebuild_part(videos, Path(work), 10 if short else 100),
                    "driver": lambda: driver_part((3, 4) if short else (4, 5, 6)),
                    "window": window_part,
                    "lanes": lanes_part,
                    "files": lambda: files_part(data, Path(work), 200 if short else FILES),
                    "index": lambda: index_part(Path(work), SHORT_CLIPS if short else CLIPS),
                }[part]()
            rows += found
            details[part] = measured
    if as_json:
        print(json.dumps({"properties": rows, "measured": details}, indent=1))
    else:
        print_table("Builds that grow", rows)
        if "files" in details:
            print_table("Builds over small real files", build_rows(details["files"]))
        if "driver" in details:
            print_table("The driver over a simulated archive", driver_rows(details["driver"]))
        if "index" in details:
            print_table("Start of a training worker", index_rows(details["index"]))
    sys.exit(any(row["holds"] == "no" for row in rows))


def row(number: int, name: str, measured: str, bar: str, holds: bool) -> dict[str, Any]:
    """One property in the table."""
    answer = "yes" if holds else "no"
    return {"no.": number, "property": name, "measured": measured, "bar": bar, "holds": answer}


def some_videos(folder: Path, work: Path, count: int) -> Path:
    """A folder of links to the first videos of another one, so that parts can add some."""
    chosen = work / "videos"
    chosen.mkdir()
    for path in sorted(path for path in folder.iterdir() if path.is_file())[:count]:
        (chosen / path.name).symlink_to(path.resolve())
    return chosen


# --- bytes


def bytes_part(videos: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Properties 1 to 3."""
    found = measure_bytes(videos)
    first = found["first"]["read"]
    second = found["second"]["read"]
    data = found["source_bytes"] + found["shard_bytes"]
    by_driver = sum(
        reads.get(f"driver {kind}", 0)
        for reads in (first, second)
        for kind in ("sources", "shards")
    )
    by_build = sum(count for name, count in first.items() if name.endswith("sources"))
    rerun = sum(count for name, count in second.items() if name.split()[1] in ("sources", "shards"))
    share = by_build / found["source_bytes"]
    others = sum(second.values()) - rerun
    return found, [
        row(
            1,
            "bytes of sources and shards that the driver reads",
            f"{by_driver} B",
            "0 B",
            by_driver == 0,
        ),
        row(
            2,
            f"bytes of sources that a first build of {found['files']} videos reads",
            f"{share:.3f} x",
            "<= 1.05 x",
            0 < share <= 1.05,
        ),
        row(
            3,
            "bytes of sources and shards that a second build reads",
            f"{rerun} B of {data / 1e6:.1f} MB (and {others / 1e3:.0f} kB of listings and "
            "metadata)",
            "<= 1 %",
            rerun <= 0.01 * data and found["second"]["made"] == 0,
        ),
    ]


# --- rebuild


def rebuild_part(
    videos: Path, work: Path, changes: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Properties 4 and 5."""
    everything = list(range(SIMULATED_SOURCES))
    planned = simulated_plan(everything)
    chance = random.Random(0)
    added = []
    removed = []
    for number in chance.sample(everything, changes):
        added.append(len(simulated_plan([*everything, number + 0.5]) - planned))
        fewer = [other for other in everything if other != number]
        removed.append(len(simulated_plan(fewer) - planned))
    builds = same_files(videos, work)
    total = len(planned)
    measured = {
        "shards": total,
        "changes": changes,
        "added_mean": sum(added) / changes,
        "added_most": max(added),
        "removed_mean": sum(removed) / changes,
        "removed_most": max(removed),
        "builds": builds,
    }
    return measured, [
        row(
            4,
            f"shards rebuilt after one of {SIMULATED_SOURCES} sources is added or removed",
            f"at most {max(added)} and {max(removed)} of {total} in {changes} trials each "
            f"(mean {measured['added_mean']:.2f} and {measured['removed_mean']:.2f})",
            "<= 2",
            max(added + removed) <= 2,
        ),
        row(
            4,
            "a build after an addition is byte-identical to one from nothing",
            yes(builds["grown"]),
            "yes",
            builds["grown"],
        ),
        row(
            5,
            "byte-identity with another number of workers, and after a kill",
            f"{yes(builds['two workers'])} and {yes(builds['killed'])}",
            "yes",
            builds["two workers"] and builds["killed"],
        ),
    ]


def yes(value: bool) -> str:
    """For the table."""
    return "yes" if value else "no"


def simulated_plan(numbers: Sequence[float]) -> set[tuple[str, str]]:
    """Names and digests of the shards of simulated sources."""
    from pipeline.config import PipelineConfig
    from pipeline.discover.source_table import Source
    from pipeline.discover.work_plan import make_plan

    sources = [
        Source(
            uri=f"clip-{number:08.1f}.mp4",
            path=f"/{number}",
            bytes=1_000_000 + int(2 * number),
            stamp="-",
        )
        for number in numbers
    ]
    sources.sort(key=lambda source: source.uri)
    plan = make_plan(sources, PipelineConfig(), {})
    return {(spec.name, spec.digest) for spec in plan.shards}


def same_files(videos: Path, work: Path) -> dict[str, bool]:
    """Whether builds with different histories ended in the same files."""
    config = work / "config.toml"
    config.write_text("[precompute]\nvideos_per_shard = 2\n")
    wanted = build(videos, work / "once", config, "1")

    paths = sorted(videos.iterdir())
    fewer = work / "fewer"
    fewer.mkdir()
    for path in paths[:4] + paths[5:]:
        (fewer / path.name).symlink_to(path.resolve())
    build(fewer, work / "grown", config, "2")
    (fewer / paths[4].name).symlink_to(paths[4].resolve())
    grown = build(fewer, work / "grown", config, "2")

    killed = start(videos, work / "killed", config, "1")
    deadline = time.monotonic() + 120
    while not list((work / "killed").glob("shard-*.tar")) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    return {
        "grown": grown == wanted,
        "two workers": build(videos, work / "two", config, "2") == wanted,
        "killed": build(videos, work / "killed", config, "1") == wanted,
    }


def build(videos: Path, out: Path, config: Path, workers: str) -> dict[str, bytes]:
    """Files of a build."""
    if start(videos, out, config, workers).wait():
        sys.exit(f"the build in {out} failed")
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the state, of which no digest depends."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".state"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def start(videos: Path, out: Path, config: Path, workers: str) -> subprocess.Popen[bytes]:
    """Start ``corrfractal precompute``."""
    command = [sys.executable, "-m", "corrfractal", "precompute", str(videos), "--out", str(out)]
    command += ["--config", str(config), "--workers", workers]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


# --- driver


def driver_part(powers: tuple[int, ...]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Property 9."""
    measured = [measure_driver(10**power) for power in powers]
    largest = measured[-1]
    if any(found["second"]["made"] for found in measured):
        sys.exit("a second build over an unchanged archive built shards again")
    first = largest["first"]
    peak = max(first["peak_mb"], largest["second"]["peak_mb"])
    name = f"driver over {largest['sources']:,} sources"
    seconds = (
        f"{first['planning_seconds']:.1f} s ({ten_million(measured, 'planning_seconds'):.0f} s"
    )
    memory = f"{peak:.0f} MB ({ten_million(measured, 'peak_mb') / 1000:.1f} GB"
    return measured, [
        row(
            9,
            f"{name}: planning",
            f"{seconds} at 10 million, by slope)",
            f"<= {PLANNING_SECONDS} s",
            first["planning_seconds"] <= PLANNING_SECONDS,
        ),
        row(
            9,
            f"{name}: peak memory",
            f"{memory} at 10 million, by slope)",
            f"<= {DRIVER_MB} MB",
            peak <= DRIVER_MB,
        ),
    ]


def ten_million(measured: list[dict[str, Any]], field: str) -> float:
    """A figure of the first build, continued along the line through the two largest archives."""
    smaller, larger = measured[-2:]
    slope = (larger["first"][field] - smaller["first"][field]) / (
        larger["sources"] - smaller["sources"]
    )
    return float(larger["first"][field] + slope * (10_000_000 - larger["sources"]))


def driver_rows(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds and memory of each phase, a row per archive and build."""
    rows = []
    for found in measured:
        for name in ("first", "second"):
            values = found[name]
            phases = {
                phase.strip("_"): f"{of['seconds']:.1f} s, {of['peak_mb']:.0f} MB"
                for phase, of in values["phases"].items()
            }
            rows.append({"sources": found["sources"], "build": name, **phases})
    return rows


# --- files


def files_part(data: Path, work: Path, count: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Properties 3 and 4 over many real files."""
    folder = work / "files"
    folder.mkdir()
    found = measure_files(data / "train_videos", folder, count)
    builds = found["builds"]
    rerun = builds["nothing changed"]
    read = rerun["source_bytes_read"] + rerun["shard_bytes_read"]
    resumed = builds["the same again"]
    lost = builds["first, driver killed halfway"]["made"] + resumed["made"] - found["first_shards"]
    names = ("one file added", "one file removed", "one file changed")
    made = [builds[name]["made"] for name in names]
    return found, [
        row(
            3,
            f"bytes of {count:,} files and their shards that a build with nothing to do reads",
            f"{read} B, {rerun['seconds']:.0f} s",
            "<= 1 %",
            read <= 0.01 * (found["source_bytes"] + found["shard_bytes"]) and not rerun["made"],
        ),
        row(
            4,
            "shards made after one of them is added, removed, changed",
            ", ".join(map(str, made)) + f" of {found['shards']}",
            "<= 2",
            max(made) <= 2,
        ),
        row(
            5,
            "shards made twice after SIGKILL of the driver halfway",
            str(lost),
            "at most one a worker",
            lost <= found["workers"],
        ),
    ]


# --- window


def window_part() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Property 10: nodes that run tasks, and pending tasks, before and after a node joins."""
    import collections

    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.cluster_utils import Cluster

    from corrfractal.runtime.ray_tasks import run_tasks

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    jobs = collections.deque(range(60))
    used: dict[str, int] = {}
    pending = []
    joined_at = None
    started = time.monotonic()
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        for ended in run_tasks(
            sleep_on_node, jobs, lambda job: (0.5,), workers=None, options={"num_cpus": 1}
        ):
            node = ended.result()
            used.setdefault(node, ended.job)
            demand = get_cluster_status(cluster.address).resource_demands
            pending.append(sum(count_of(request) for request in demand.ray_task_actor_demand))
            if ended.job == 4:
                cluster.add_node(num_cpus=2)
                joined_at = time.monotonic() - started
        seconds = time.monotonic() - started
    finally:
        ray.shutdown()
        cluster.shutdown()
    most_pending = max(pending)
    measured = {
        "nodes": len(used),
        "joined_after_seconds": joined_at,
        "first_job_on_it": max(used.values()),
        "pending": pending,
        "seconds": seconds,
    }
    return measured, [
        row(
            10,
            "pending tasks that an autoscaler sees; nodes used after one joins in mid-build",
            f"up to {most_pending} pending; {len(used)} nodes",
            "> 0; 2 nodes",
            most_pending > 0 and len(used) == 2,
        )
    ]


def count_of(request: Any) -> int:
    """Number of tasks behind a demand of Ray's cluster status."""
    return sum(bundle.count for bundle in request.bundles_by_count)


def sleep_on_node(seconds: float) -> str:
    """The task: the node that it ran on."""
    import ray

    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())


# --- index


def index_part(
    work: Path, sizes: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Property 8, for every size up to a million clips."""
    measured = measure_index(work / "index", sizes)
    rows = []
    for found in measured:
        if found["clips"] > 1_010_000:  # no bar
            continue
        worker = found["worker"]
        seconds = worker["seconds"]
        peak = worker["peak_mb"]
        rows.append(
            row(
                8,
                f"first batch of a worker, {found['clips']:,} clips in {found['shards']:,} shards",
                f"{seconds:.2f} s and {peak:.0f} MB",
                f"<= {FIRST_BATCH_SECONDS} s and {WORKER_MB} MB",
                seconds <= FIRST_BATCH_SECONDS and peak <= WORKER_MB,
            )
        )
    return measured, rows


def index_rows(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per data set and process."""
    names = {
        "driver": "driver, reads the index",
        "worker": "worker, maps the driver's columns",
        "worker_that_reads": "worker that reads the index itself",
    }
    return [
        {
            "clips": found["clips"],
            "shards": found["shards"],
            "process": name,
            "seconds": found[key]["seconds"],
            "peak MB": found[key]["peak_mb"],
            "of them its own, at the end": found[key].get("own_mb", ""),
        }
        for found in measured
        for key, name in names.items()
    ]


if __name__ == "__main__":
    main()
