"""The driver of a build over a simulated archive: processor time and memory of each of its phases.

The archive is an object store of which only listings exist, and a task writes a sidecar and an
empty tar. All else is the product's: ``pipeline.run.precompute`` from discovery to manifest, with
its tasks on Ray.
"""

from __future__ import annotations

import gc
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem, register_implementation

PER_FOLDER = 1000
WORKERS = 2
# Names in pipeline.run, in the order of their calls.
PHASES = ("discover", "list_sources", "_examine", "make_plan", "prepare", "execute", "commit")
PLANNING = ("discover", "list_sources", "make_plan", "prepare")


class SimulatedArchive(AbstractFileSystem):
    """``simulated://N`` lists N videos in folders of a thousand; none can be read."""

    protocol = "simulated"
    cachable = False

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The folders of an archive, or the files of one of its folders."""
        root, _, folder = self._strip_protocol(path).partition("/")
        count = int(root)
        if folder:
            first = int(folder) * PER_FOLDER
            numbers = range(first, min(count, first + PER_FOLDER))
            entries = [self._file(f"{root}/{folder}/clip-{number:08d}.mp4") for number in numbers]
        else:
            folders = range(-(-count // PER_FOLDER))
            entries = [
                {"name": f"{root}/{number:05d}", "type": "directory", "size": 0}
                for number in folders
            ]
        return entries if detail else [entry["name"] for entry in entries]

    def isfile(self, path: str) -> bool:
        """By its name."""
        return str(path).endswith(".mp4")

    def isdir(self, path: str) -> bool:
        """By its name."""
        return not self.isfile(path)

    @staticmethod
    def _file(name: str) -> dict[str, Any]:
        """Sizes of short videos, 0.05 to 20 MB: many share theirs with another one."""
        etag = hashlib.md5(name.encode()).hexdigest()
        size = 50_000 + int(etag[:8], 16) % 19_950_000
        return {"name": name, "type": "file", "size": size, "ETag": f'"{etag}"'}


def measure_driver(count: int) -> dict[str, Any]:
    """Seconds and peak MB of each phase of a first build over ``count`` sources, and of a second
    one with nothing to do, each in a process of its own."""
    found: dict[str, Any] = {"sources": count}
    with tempfile.TemporaryDirectory() as out:
        for build in ("first", "second"):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found[build] = pool.submit(_measure, count, out).result()
    return found


def _measure(count: int, out: str) -> dict[str, Any]:
    import ray

    import pipeline.run
    import pipeline.store.execute
    from pipeline.config import PipelineConfig
    from pipeline.discover import examine

    # Workers cannot import this module.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    register_implementation("simulated", SimulatedArchive, clobber=True)
    pipeline.store.execute.make_shard = write_trivial_shard  # type: ignore[attr-defined]
    examine.read_equal = find_no_copies
    phases: dict[str, tuple[float, float]] = {}
    for name in PHASES:
        setattr(pipeline.run, name, _timed(name, getattr(pipeline.run, name), phases))

    base = _status_mb("VmRSS")
    started = time.monotonic()
    cpu_started = time.process_time()
    result = pipeline.run.precompute(
        [f"simulated://{count}"], out, PipelineConfig(), workers=WORKERS
    )
    return {
        "shards": result.shards,
        "made": result.made,
        "seconds": time.monotonic() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "planning_seconds": sum(phases[name][0] for name in PLANNING),
        "base_mb": base,
        "peak_mb": max(peak for _, peak in phases.values()),
        "phases": {name: {"seconds": s, "peak_mb": mb} for name, (s, mb) in phases.items()},
    }


def _timed(
    name: str, work: Callable[..., Any], phases: dict[str, tuple[float, float]]
) -> Callable[..., Any]:
    """``work``, noting the processor time that it takes here, and the peak memory of the process; a
    generator is drained."""

    def timed(*arguments: Any, **options: Any) -> Any:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel resets its high-water mark
        started = time.process_time()
        result = work(*arguments, **options)
        if name == "_examine":
            result = list(result)
        phases[name] = (time.process_time() - started, _status_mb("VmHWM"))
        return result

    return timed


def _status_mb(field: str) -> float:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field}")


def find_no_copies(sources: Any) -> dict[str, Any]:
    """The task that compares sources of equal size, without reading."""
    return {}


def write_trivial_shard(
    spec: Any,
    out: str,
    config: Any,
    crashed: Mapping[str, str] | None = None,
    earlier: Mapping[str, str] | None = None,
    rebuild: bool = False,
    build: str = "",
) -> Any:
    """The task: a sidecar with one clip per source, and an empty tar."""
    from corrfractal.files import storage
    from corrfractal.shards.manifest import (
        LabelStatistics,
        SampleEntry,
        Sidecar,
        SourceEntry,
        seal,
        sidecar_name,
        to_text,
    )
    from pipeline.store.shard_task import ShardResult, ShardStats
    from pipeline.store.state import shard_stamp

    entries = []
    samples = []
    for position, segment in enumerate(spec.segments):
        uri = segment.source.uri
        sha256 = hashlib.sha256(uri.encode()).hexdigest()
        entries.append(
            SourceEntry(
                uri=uri,
                sha256=sha256,
                outcome="sampled",
                clips=1,
                frames=300,
                fps=30.0,
                decoder="decord",
                frames_stored=8,
            )
        )
        samples.append(
            SampleEntry(
                key=segment.clip_key(sha256, 0),
                offset=position * 370_000,
                length=370_000,
                frames=8,
                views=1,
            )
        )
    labels = LabelStatistics(by_rank=(9, 5, 3, 1), by_used=(0, 0, 0, 8), compared=100, changed=9)
    sidecar = seal(
        Sidecar(
            name=spec.name,
            spec=spec.digest,
            sha256=hashlib.sha256(spec.name.encode()).hexdigest(),
            bytes=0,
            samples=tuple(samples),
            sources=tuple(entries),
            label_statistics=labels,
        )
    )
    # Without the fsync of the product's writes: it is the disk's time.
    Path(out, sidecar_name(spec.name)).write_text(to_text(sidecar))
    Path(out, spec.name).touch()
    size, tar_stamp = storage.file_fact(storage.join(out, spec.name))
    _, sidecar_stamp = storage.file_fact(storage.join(out, sidecar_name(spec.name)))
    stamp = shard_stamp(tar_stamp, sidecar_stamp)
    stats = ShardStats(clips=len(samples), sampled=len(entries), made=1)
    contents = {entry.uri: entry.sha256 for entry in entries}
    return ShardResult(
        stats=stats, contents=contents, sidecar=sidecar.digest, bytes=size, stamp=stamp
    )
