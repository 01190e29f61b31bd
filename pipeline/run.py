"""The pipeline from end to end: plan, execute, commit. The only file of this package that imports Ray.

Plain tasks, one per shard specification, with a window of as many as there are workers. Ray runs the task of a killed
worker again; one that dies every time is put down to the source it was reading, which goes into quarantine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from corrfractal.console import progress
from corrfractal.errors import BoundExceededError, CorrFractalError
from corrfractal.manifest import QUARANTINE, Statistics
from corrfractal.runtime import ray_session

from .config import PipelineConfig
from .manifest import commit, make_plan, prepare
from .shards import ShardSpec, crash_note, make_shard
from .sources import find_sources

MAX_RETRIES = 3  # of a task whose worker died


@dataclass(frozen=True, kw_only=True)
class PrecomputeResult:
    """What a run did. ``sources`` = ``sampled`` + ``quarantined`` + ``rejected``.

    Attributes:
        digest: of the manifest, the data set's identity.
        shards, samples, bytes: in the manifest.
        made: shards made by this run; the others were there and whole.
        frames: stored by this run.
        seconds: wall time of the run.
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

    @property
    def frames_per_second(self) -> float:
        """Frames stored per second of wall time; 0 if there was nothing to do."""
        return round(self.frames / self.seconds, 1) if self.seconds > 0 else 0.0


def precompute(
    sources: Sequence[str],
    out: Path,
    config: PipelineConfig,
    *,
    workers: int | None = None,
    retry_quarantined: bool = False,
) -> PrecomputeResult:
    """Make shards of clips and pseudo-labels from videos. Stopped at any point, the same call goes on from there.

    Args:
        sources: files, folders, globs, lists; see ``sources.py``.
        out: folder of the shards; only files of this pipeline's own names are touched in it.
        config: how.
        workers: tasks at a time; None: one per CPU of the Ray cluster.
        retry_quarantined: read quarantined sources again.

    Raises:
        CallError: a source does not exist, or ``out`` cannot be used. Nothing was written.
        BoundExceededError: more than ``config.max_bad`` of the sources are quarantined. The shards are complete.
        CorrFractalError: no source gave a clip, or a shard could not be written.
    """
    started = time.monotonic()
    out = Path(out).resolve()

    # 1. Plan: what is there, and what is still to be made.
    plan = make_plan(find_sources(sources, skip=out), config)
    pending = prepare(out, plan, retry_quarantined)

    # 2. Execute: one task per shard.
    frames = _execute(pending, out, config, workers)

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
        frames=frames,
        seconds=round(time.monotonic() - started, 2),
    )


def _execute(specs: Sequence[ShardSpec], out: Path, config: PipelineConfig, workers: int | None) -> int:
    """Make shards on Ray; return the number of frames stored."""
    if not specs:
        return 0
    frames = 0
    waiting: deque[tuple[ShardSpec, frozenset[str]]] = deque((spec, frozenset()) for spec in specs)
    with ray_session(ray, workers), progress("videos", sum(len(spec.sources) for spec in specs)) as advance:
        make = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(make_shard)
        window = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        running: dict[ray.ObjectRef, tuple[ShardSpec, frozenset[str]]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < window:
                    spec, crashed = waiting.popleft()
                    running[make.remote(spec, out, config, crashed)] = spec, crashed
                for ref in ray.wait(list(running))[0]:
                    spec, crashed = running.pop(ref)
                    try:
                        frames += ray.get(ref)
                        advance(len(spec.sources))
                    except (WorkerCrashedError, OutOfMemoryError) as exc:
                        waiting.appendleft((spec, crashed | {_culprit(spec, out, crashed, exc)}))
                    except RayTaskError as exc:
                        raise _failure(spec, exc) from exc
        finally:
            for ref in running:
                ray.cancel(ref, force=True)
    return frames


def _culprit(spec: ShardSpec, out: Path, crashed: frozenset[str], exc: Exception) -> str:
    """URI of the source that was being read when the worker died for the last time."""
    try:
        uri = crash_note(spec, out).read_text(encoding="utf-8")
    except FileNotFoundError:
        uri = ""
    if uri in crashed or uri not in {source.uri for source in spec.sources}:
        raise CorrFractalError(
            f"the worker that made {spec.name} died {MAX_RETRIES + 1} times, not over a video ({exc}); "
            "look at its memory, then run the same command again"
        ) from exc
    return uri


def _failure(spec: ShardSpec, exc: RayTaskError) -> CorrFractalError:
    cause = exc.cause if isinstance(exc.cause, Exception) else exc
    return CorrFractalError(
        f"cannot make {spec.name}: {type(cause).__name__}: {cause}; once that is mended, "
        "the same command goes on from here"
    )


def _check_bound(statistics: Statistics, max_bad: float, out: Path) -> None:
    if statistics.quarantined > max_bad * statistics.sources:
        raise BoundExceededError(
            f"{statistics.quarantined} of {statistics.sources} sources are damaged, more than a share of "
            f"{max_bad:.4g} (max_bad); see {out / QUARANTINE}. The shards of the others are complete"
        )
