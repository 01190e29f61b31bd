"""The pipeline from end to end: list and plan, execute, commit. The only file of this package
that imports Ray.

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

from corrfractal.common import storage
from corrfractal.common.console import progress
from corrfractal.common.errors import BoundExceededError, CallError, CorrFractalError
from corrfractal.common.output_guard import refuse_overlap
from corrfractal.common.ray_session import ray_session
from corrfractal.common.ray_tasks import WorkerDiedError, run_tasks
from corrfractal.shards.manifest import QUARANTINE, Statistics
from corrfractal.video.discovery import discover
from pipeline.discover.sources import read_sources
from pipeline.store.commit import commit, make_plan, prepare
from pipeline.store.shard_task import ShardSpec, ShardStats, make_shard, read_note

from .config import PipelineConfig

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
        sources: files, folders, globs, lists, URIs; see ``corrfractal/video/discovery.py``.
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
        ray_session(workers),
        progress("videos", sum(len(spec.segments) for spec in specs)) as advance,
    ):
        _check_devices(config)
        meters = _Meters()
        started = time.monotonic()

        def arguments(spec: ShardSpec) -> tuple[ShardSpec, str, PipelineConfig, dict[str, str]]:
            killers = [s.name for s in spec.segments if deaths[s.name] >= MAX_DEATHS]
            return spec, out, config, {name: reasons.get(name, KILLER) for name in killers}

        options = {**config.task_resources(), "max_retries": 0}
        for ended in run_tasks(make_shard, waiting, arguments, workers=workers, options=options):
            spec = ended.job
            try:
                made = ended.result()
            except WorkerDiedError as exc:
                _count_death(spec, out, deaths, reasons, exc)
                meters.deaths.inc()
                waiting.appendleft(spec)
            except CorrFractalError as exc:
                raise _failure(spec, exc) from exc
            else:
                total += made
                meters.add(made)
                advance(len(spec.segments), _summary(total, time.monotonic() - started))
    return total


def _check_devices(config: PipelineConfig) -> None:
    import ray

    if config.device == "cuda" and not ray.cluster_resources().get("GPU"):
        raise CallError(
            "device cuda: Ray finds no GPU; use --device cpu, or join a cluster that has one "
            "(RAY_ADDRESS)"
        )


class _Meters:
    """Counts that Ray exports to Prometheus, each as ``ray_corrfractal_...``."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter

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


def _failure(spec: ShardSpec, exc: CorrFractalError) -> CorrFractalError:
    return CorrFractalError(
        f"cannot make {spec.name}: {exc}. Once that is mended, the same command resumes"
    )


def _check_bound(statistics: Statistics, max_bad: float, out: str) -> None:
    if statistics.quarantined > max_bad * statistics.sources:
        raise BoundExceededError(
            f"{statistics.quarantined} of {statistics.sources} sources are damaged, more than a "
            f"share of {max_bad:.4g} (max_bad); see {storage.join(out, QUARANTINE)}. The shards of "
            "the others are complete"
        )
