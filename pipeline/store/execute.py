"""Build shards on Ray: a window of plain tasks, one per shard specification.

The task of a killed worker runs again. A segment at which workers keep dying is quarantined.
"""

from __future__ import annotations

import collections
import secrets
import time
from collections.abc import Mapping
from typing import Any

from corrfractal.common.console import progress
from corrfractal.common.errors import CallError, CorrFractalError
from corrfractal.runtime.ray_session import ray_session
from corrfractal.runtime.ray_tasks import (
    WorkerDiedError,
    cluster_has_gpus,
    run_on_nodes,
    run_tasks,
)
from pipeline.config import PipelineConfig
from pipeline.discover.work_plan import Known, ShardSpec

from .pending import PendingTasks
from .shard_task import ShardResult, ShardStats, make_shard, read_note
from .shared_copy import remove_copies
from .state import BuildState, KnownShard, contents_hash

OUTCOMES = ("sampled", "quarantined", "rejected")
# Deaths of workers at one segment before it is quarantined. A worker may be killed for memory that
# its neighbours took, so one death proves nothing.
MAX_DEATHS = 4
# Stored in sidecars and the manifest: another text is another digest.
KILLER = "reading it killed the worker process, repeatedly"


def execute(
    tasks: PendingTasks,
    out: str,
    config: PipelineConfig,
    workers: int | None,
    state: BuildState,
    known: Mapping[str, Known],
) -> ShardStats:
    """Build every shard of ``tasks`` in the folder ``out``.

    Args:
        tasks: what to build; without any, Ray is not started.
        out: folder of the shards, a local path or a URI.
        config: passed to every task.
        workers: tasks at a time; None: one per CPU of the Ray cluster.
        state: records each shard as it ends, so that a killed build resumes without reading again.
        known: what was read of the sources before, by URI.

    Raises:
        CallError: ``config.device`` is ``cuda`` and Ray has no GPU.
        CorrFractalError: a shard cannot be built; running the command again resumes.
    """
    total = ShardStats()
    if not tasks:
        return total
    # Numbers, since the tasks of a million sources would take 500 MB.
    waiting = collections.deque(range(len(tasks)))
    deaths = DeathCount()
    build = secrets.token_hex(8)

    def arguments(number: int) -> tuple[Any, ...]:
        task = tasks[number]
        crashed = deaths.crashed(task.spec)
        return task.spec, out, config, crashed, task.earlier, task.rebuild, build

    with ray_session(workers), progress("videos", tasks.segments) as advance:
        if config.device == "cuda" and not cluster_has_gpus():
            raise CallError(
                "device cuda: Ray finds no GPU; use --device cpu, or join a cluster that has one "
                "(RAY_ADDRESS)"
            )
        metrics = BuildMetrics()
        started = time.monotonic()
        # Ray's own retries would read the same bad video again without noting the death.
        options = {**config.task_resources(), "max_retries": 0}
        try:
            for ended in run_tasks(
                make_shard, waiting, arguments, workers=workers, options=options
            ):
                spec = tasks[ended.job].spec
                try:
                    result = ended.result()
                except WorkerDiedError as exc:
                    deaths.add(spec, out, exc)
                    metrics.deaths.inc()
                    # First in line, so that a bad segment is found before more work is started.
                    waiting.appendleft(ended.job)
                except CorrFractalError as exc:
                    raise CorrFractalError(
                        f"cannot build {spec.name}: {exc}. Once that is fixed, the same command "
                        "resumes"
                    ) from exc
                else:
                    record(spec, result, state, known)
                    total += result.stats
                    metrics.add(result.stats)
                    advance(len(spec.segments), _summary(total, time.monotonic() - started))
        finally:
            state.flush()
            if tasks.share_copies():
                run_on_nodes(remove_copies)
    return total


def record(
    spec: ShardSpec, result: ShardResult, state: BuildState, known: Mapping[str, Known]
) -> None:
    """Remember the contents of a shard's sources, and its tar."""
    nothing = Known()
    read = {
        uri: Known(sha256=sha256, seconds=known.get(uri, nothing).seconds)
        for uri, sha256 in result.contents.items()
    }
    state.record_sources({segment.source for segment in spec.segments}, read)
    shard = KnownShard(
        bytes=result.bytes,
        stamp=result.stamp,
        spec=spec.digest,
        sidecar=result.sidecar,
        contents=contents_hash(
            [(segment.source.uri, segment.source.fault) for segment in spec.segments], read
        ),
    )
    state.record_shard(spec.name, shard)


class DeathCount:
    """Attributes the death of each worker to the segment that it was reading."""

    def __init__(self) -> None:
        self._deaths: collections.Counter[str] = collections.Counter()
        self._reasons: dict[str, str] = {}

    def crashed(self, spec: ShardSpec) -> dict[str, str]:
        """Segments of a shard that must not be read again, each with the reason."""
        names = [segment.name for segment in spec.segments]
        killers = [name for name in names if self._deaths[name] >= MAX_DEATHS]
        return {name: self._reasons.get(name, KILLER) for name in killers}

    def add(self, spec: ShardSpec, out: str, exc: Exception) -> None:
        """Count the death of the worker that built ``spec``.

        Raises:
            CorrFractalError: workers keep dying at this shard, but not while they read a video.
        """
        culprit, reason = read_note(spec, out)

        # A segment that exceeded its limits would exceed them again: no retry.
        if reason and self._deaths[culprit] < MAX_DEATHS:
            self._reasons[culprit] = reason
            self._deaths[culprit] = MAX_DEATHS
            return

        # Without a note the worker died before it read anything: count it for the shard.
        if culprit not in {segment.name for segment in spec.segments}:
            culprit = spec.name
        self._deaths[culprit] += 1
        if self._deaths[culprit] > MAX_DEATHS or self._deaths[spec.name] == MAX_DEATHS:
            raise CorrFractalError(
                f"the worker for {spec.name} crashed {MAX_DEATHS} times without reading a video "
                f"({exc}); check for out-of-memory kills, then run the same command again"
            ) from exc


class BuildMetrics:
    """Counters that Ray exports to Prometheus, each as ``ray_corrfractal_...``."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter

        self.deaths = Counter("corrfractal_worker_deaths", "Workers that died at a shard")
        self._clips = Counter("corrfractal_clips", "Clips stored")
        self._frames = Counter("corrfractal_frames", "Frames stored")
        self._videos = Counter(
            "corrfractal_videos", "Videos and segments of videos done", tag_keys=("outcome",)
        )

    def add(self, stats: ShardStats) -> None:
        """Add the counts of one shard."""
        # Ray refuses to increase a counter by zero.
        if stats.clips:
            self._clips.inc(stats.clips)
        if stats.frames:
            self._frames.inc(stats.frames)
        for outcome in OUTCOMES:
            count = getattr(stats, outcome)
            if count:
                self._videos.inc(count, tags={"outcome": outcome})


def _summary(stats: ShardStats, seconds: float) -> str:
    text = f"{stats.clips} clips, {stats.frames / seconds:.0f} frames/s"
    if stats.quarantined + stats.rejected:
        text += f", {stats.quarantined} quarantined, {stats.rejected} rejected"
    return text
