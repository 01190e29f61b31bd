"""The pipeline from end to end: plan, execute, commit. The only file of this package that imports
Ray.

Plain tasks, one per shard specification, with a window of as many as there are workers. The task of
a killed worker is run again; a segment of a video over which workers keep dying goes into
quarantine.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from ray.util.metrics import Counter

from corrfractal import storage
from corrfractal.console import progress
from corrfractal.discovery import discover
from corrfractal.errors import BoundExceededError, CallError, CorrFractalError
from corrfractal.foreign_errors import describe_error
from corrfractal.manifest import QUARANTINE, Statistics
from corrfractal.output_guard import refuse_overlap
from corrfractal.runtime import ray_session

from .config import PipelineConfig
from .manifest import commit, make_plan, prepare
from .shards import ShardSpec, ShardStats, make_shard, read_note
from .sources import read_sources

OUTCOMES = ("sampled", "quarantined", "rejected")
MAX_DEATHS = 4  # of workers at the same segment, which is then quarantined
KILLER = "reading it killed the worker process, repeatedly"


@dataclass(frozen=True, kw_only=True)
class PrecomputeResult:
    """What a run did. ``sources`` = ``sampled`` + ``quarantined`` + ``rejected``.

    Attributes:
        digest: of the manifest, the data set's identity.
        shards, samples, bytes: in the manifest.
        made: shards made by this run; the others were there and whole.
        frames: stored by this run.
        seconds: wall time of the run.
        core_hours: processor time of this run, but for Ray's own.
        worker_mb: peak memory of the largest worker.
        ignored: entries of folders and globs that are no videos, by the rule that says so.
    """

    digest: str
    shards: int
    made: int
    samples: int
    bytes: int
    sources: int
    sampled: int
    quarantined: int
    rejected: int
    frames: int
    seconds: float
    core_hours: float = 0.0
    worker_mb: float = 0.0
    ignored: dict[str, int] = field(default_factory=dict)

    @property
    def frames_per_second(self) -> float:
        """Frames stored per second of wall time; 0 if there was nothing to do."""
        return round(self.frames / self.seconds, 1) if self.seconds > 0 else 0.0


def precompute(
    sources: Sequence[str],
    out: str | Path,
    config: PipelineConfig,
    *,
    workers: int | None = None,
    retry_quarantined: bool = False,
    files: Sequence[Path | None] = (),
) -> PrecomputeResult:
    """Make shards of clips and pseudo-labels from videos. Stopped at any point, the same call goes
    on from there.

    Args:
        sources: files, folders, globs, lists, URIs; see ``corrfractal/discovery.py``.
        out: folder of the shards, local or a URI; only files of this pipeline's own names are
            touched in it.
        config: how.
        workers: tasks at a time; None: one per CPU of the Ray cluster.
        retry_quarantined: read quarantined sources again.
        files: what else the call reads, such as a configuration: ``out`` may not touch it either.

    Raises:
        CallError: a source does not exist, or ``out`` touches one or cannot be used. Nothing was
        written.
        BoundExceededError: more than ``config.max_bad`` of the sources are quarantined. The shards
        are complete.
        CorrFractalError: no source gave a clip, or a shard could not be written.
    """
    started = time.monotonic()
    refuse_overlap({"--out": out}, (*sources, *files))
    out = storage.resolve(out)

    # 1. Plan: what is there, and what is still to be made.
    cpu = time.process_time()
    found = discover(sources, skip=[out])
    refuse_overlap({"--out": out}, [entry.location for entry in found.entries])
    plan = make_plan(read_sources(found.entries), config)
    cpu = time.process_time() - cpu
    pending = prepare(out, plan, retry_quarantined)

    # 2. Execute: one task per shard.
    made = _execute(pending, out, config, workers)

    # 3. Commit: the manifest over all shards.
    manifest = commit(out, plan)
    _check_bound(manifest.statistics, config.max_bad, out)
    statistics = manifest.statistics
    return PrecomputeResult(
        digest=manifest.digest,
        shards=len(manifest.shards),
        made=len(pending),
        samples=statistics.samples,
        bytes=statistics.bytes,
        sources=statistics.sources,
        sampled=statistics.sampled,
        quarantined=statistics.quarantined,
        rejected=statistics.rejected,
        frames=made.frames,
        seconds=round(time.monotonic() - started, 2),
        core_hours=(cpu + made.core_seconds) / 3600,
        worker_mb=round(made.peak_mb, 1),
        ignored=found.ignored,
    )


def _execute(
    specs: Sequence[ShardSpec], out: str, config: PipelineConfig, workers: int | None
) -> ShardStats:
    """Make shards on Ray."""
    if not specs:
        return ShardStats()
    total = ShardStats()
    waiting = collections.deque(specs)
    deaths: collections.Counter[str] = collections.Counter()  # by the segment at work
    reasons: dict[str, str] = {}
    with (
        ray_session(ray, workers),
        progress("videos", sum(len(spec.segments) for spec in specs)) as advance,
    ):
        _check_devices(config)
        make = ray.remote(**config.task_resources(), max_retries=0)(make_shard)
        window = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        meters, started = _Meters(), time.monotonic()
        running: dict[ray.ObjectRef, ShardSpec] = {}
        try:
            while waiting or running:
                while waiting and len(running) < window:
                    spec = waiting.popleft()
                    killers = [s.name for s in spec.segments if deaths[s.name] >= MAX_DEATHS]
                    crashed = {name: reasons.get(name, KILLER) for name in killers}
                    running[make.remote(spec, out, config, crashed)] = spec
                for ref in ray.wait(list(running))[0]:
                    spec = running.pop(ref)
                    try:
                        made = ray.get(ref)
                    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError) as exc:
                        _count_death(spec, out, deaths, reasons, exc)
                        meters.deaths.inc()
                        waiting.appendleft(spec)
                    except RayTaskError as exc:
                        raise _failure(spec, exc) from exc
                    else:
                        total += made
                        meters.add(made)
                        advance(len(spec.segments), _summary(total, time.monotonic() - started))
        finally:
            for ref in running:
                ray.cancel(ref, force=True)
    return total


def _check_devices(config: PipelineConfig) -> None:
    if config.device == "cuda" and not ray.cluster_resources().get("GPU"):
        raise CallError(
            "device cuda: Ray finds no GPU; use --device cpu, or join a cluster that has one "
            "(RAY_ADDRESS)"
        )


class _Meters:
    """Counts that Ray exports to Prometheus, each as ``ray_corrfractal_...``."""

    def __init__(self) -> None:
        self.deaths = Counter("corrfractal_worker_deaths", "Workers that died at a shard")
        self._clips = Counter("corrfractal_clips", "Clips stored")
        self._frames = Counter("corrfractal_frames", "Frames stored")
        self._videos = Counter(
            "corrfractal_videos", "Videos and segments of videos done", tag_keys=("outcome",)
        )

    def add(self, made: ShardStats) -> None:
        for meter, count, tags in (
            (self._clips, made.clips, {}),
            (self._frames, made.frames, {}),
            *((self._videos, getattr(made, outcome), {"outcome": outcome}) for outcome in OUTCOMES),
        ):
            if count:
                meter.inc(count, tags=tags)


def _summary(made: ShardStats, seconds: float) -> str:
    lost = (
        f", {made.quarantined} quarantined, {made.rejected} rejected"
        if made.quarantined + made.rejected
        else ""
    )
    return f"{made.clips} clips, {made.frames / seconds:.0f} frames/s{lost}"


def _count_death(
    spec: ShardSpec,
    out: str,
    deaths: collections.Counter[str],
    reasons: dict[str, str],
    exc: Exception,
) -> None:
    """Put the death of a worker down to the segment it was reading; one that went over its limits
    has no other try."""
    culprit, reason = read_note(spec, out)
    if reason and deaths[culprit] < MAX_DEATHS:
        reasons[culprit], deaths[culprit] = reason, MAX_DEATHS
        return
    if culprit not in {segment.name for segment in spec.segments}:
        culprit = spec.name  # it died before it read anything
    deaths[culprit] += 1
    if deaths[culprit] > MAX_DEATHS or deaths[spec.name] == MAX_DEATHS:
        raise CorrFractalError(
            f"the worker that made {spec.name} died {MAX_DEATHS} times, not over a video ({exc}); "
            "look at its memory, then run the same command again"
        ) from exc


def _failure(spec: ShardSpec, exc: RayTaskError) -> CorrFractalError:
    return CorrFractalError(
        f"cannot make {spec.name}: {describe_error(exc)}. Once that is mended, the same command "
        "resumes"
    )


def _check_bound(statistics: Statistics, max_bad: float, out: str) -> None:
    if statistics.quarantined > max_bad * statistics.sources:
        raise BoundExceededError(
            f"{statistics.quarantined} of {statistics.sources} sources are damaged, more than a "
            f"share of {max_bad:.4g} (max_bad); see {storage.join(out, QUARANTINE)}. The shards of "
            "the others are complete"
        )
