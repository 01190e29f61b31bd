"""Videos -> shards, from end to end: list, plan, execute, commit."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from corrfractal.common.console import progress
from corrfractal.common.errors import BoundExceededError
from corrfractal.files import storage
from corrfractal.files.output_guard import refuse_overlap
from corrfractal.runtime.ray_session import ray_session
from corrfractal.runtime.ray_tasks import run_tasks
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import QUARANTINE
from corrfractal.video.discovery import discover
from pipeline.discover.source_table import Source, SourceTable
from pipeline.discover.sources import list_sources
from pipeline.discover.work_plan import Known, Plan, make_plan
from pipeline.report.build_result import Changes, PrecomputeResult
from pipeline.store.commit import commit, outline_of
from pipeline.store.execute import execute
from pipeline.store.lock import build_lock
from pipeline.store.prepare import Preparation, begin, prepare
from pipeline.store.state import BuildState

from .config import PipelineConfig
from .discover import examine


def precompute(
    sources: Sequence[str],
    out: str | Path,
    config: PipelineConfig,
    *,
    workers: int | None = None,
    retry_quarantined: bool = False,
    files: Sequence[Path | None] = (),
) -> PrecomputeResult:
    """Build shards of clips and pseudo-labels from videos. Idempotent and resumable: the same call
    continues a stopped one, and on a folder that grew it builds what is new, changed or gone.

    Args:
        sources: files, folders, globs, lists, URIs; see ``corrfractal/video/discovery.py``.
        out: folder of the shards, local or a URI. Only files with this pipeline's own names are
            written or removed in it.
        config: how to sample, label and limit.
        workers: tasks at a time; None: one per CPU of the Ray cluster.
        retry_quarantined: read quarantined sources again.
        files: other inputs of the call, such as a configuration file; ``out`` must not contain or
            replace them.

    Raises:
        CallError: a source does not exist, or ``out`` overlaps an input or cannot be used. Nothing
            was written.
        BoundExceededError: more than ``config.max_bad`` of the sources are quarantined. The shards
            are complete.
        CorrFractalError: no source gave a clip, a shard could not be written, or another build is
            writing to the local folder ``out``.
    """
    started = time.monotonic()
    cpu_started = time.process_time()
    config = config.with_engine()
    with contextlib.ExitStack() as stack:
        # 1. and 2. List and plan: names, sizes and times; no content of a video or a shard.
        build = _list_and_plan(
            sources,
            out,
            config,
            workers,
            files,
            stack,
            retry_quarantined=retry_quarantined,
            lock=True,
        )
        begin(build.out, build.plan, build.preparation)
        # In a file of its own: shards that are built from these sources know more of them.
        build.state.record_sources(build.examined, build.known)
        build.state.flush()
        planning_seconds = time.process_time() - cpu_started

        # 3. Execute: one Ray task per shard, which hashes its sources as it reads them.
        if build.preparation.pending:
            stack.enter_context(ray_session(workers))
        built = execute(
            build.preparation.pending, build.out, config, workers, build.state, build.known
        )

        # 4. Commit: the index over all shards, then the manifest.
        # Of the plan itself, most of the memory of this process, nothing is needed any more.
        outline = outline_of(build.out, build.plan, build.preparation)
        build.state.compact(build.sources, outline.names)
        folder = build.out
        changes = build.changes
        doubtful = build.doubtful
        ignored = build.ignored
        del build
        manifest = commit(folder, outline)
    statistics = manifest.statistics
    if statistics.quarantined > config.max_bad * statistics.sources:
        raise BoundExceededError(
            f"{statistics.quarantined} of {statistics.sources} sources are damaged, more than a "
            f"share of {config.max_bad:.4g} (max_bad); see {storage.join(folder, QUARANTINE)}. The "
            "shards of the others are complete"
        )
    return PrecomputeResult(
        digest=manifest.digest,
        shards=len(outline.names),
        made=built.made,
        samples=statistics.samples,
        bytes=statistics.bytes,
        sources=statistics.sources,
        sampled=statistics.sampled,
        quarantined=statistics.quarantined,
        rejected=statistics.rejected,
        frames=built.frames,
        seconds=round(time.monotonic() - started, 2),
        core_hours=(planning_seconds + built.core_seconds) / 3600,
        worker_mb=round(built.peak_mb, 1),
        added=changes.added,
        changed=_count_changed(Index(folder, manifest), doubtful),
        removed=changes.removed,
        ignored=ignored,
    )


def preview(
    sources: Sequence[str],
    out: str | Path,
    config: PipelineConfig,
    *,
    workers: int | None = None,
    retry_quarantined: bool = False,
    files: Sequence[Path | None] = (),
) -> Changes:
    """What ``precompute`` would do; nothing is written. Arguments and errors as there."""
    with contextlib.ExitStack() as stack:
        build = _list_and_plan(
            sources, out, config, workers, files, stack, retry_quarantined=retry_quarantined
        )
    return build.changes


@dataclass(frozen=True, kw_only=True)
class _Build:
    """One call: what is listed, planned and prepared. ``doubtful`` holds the earlier content of
    sources that may have changed, by URI."""

    out: str
    sources: SourceTable
    examined: list[Source]
    ignored: dict[str, int]
    state: BuildState
    known: dict[str, Known]
    plan: Plan
    preparation: Preparation
    changes: Changes
    doubtful: dict[str, str]


def _list_and_plan(
    names: Sequence[str],
    out: str | Path,
    config: PipelineConfig,
    workers: int | None,
    files: Sequence[Path | None],
    stack: contextlib.ExitStack,
    *,
    retry_quarantined: bool,
    lock: bool = False,
) -> _Build:
    """List sources, plan the shards, and find out which are still to be built.

    ``lock``: keep other builds out of the folder until ``stack`` ends.
    """
    # Names first, so that an output that overlaps an input is refused at once.
    refuse_overlap({"--out": out}, (*names, *files))
    folder = storage.resolve(out)
    found = discover(names, skip=[folder])
    refuse_overlap({"--out": folder}, [entry.location for entry in found.entries])
    sources = list_sources(found.entries)
    ignored = found.ignored
    del found  # of a million sources, 60 MB

    if lock:
        stack.enter_context(build_lock(folder))
    state = BuildState(folder)
    known = state.known(sources)
    before = state.seen
    doubtful = state.changed
    removed = len(state.gone)
    is_lost = not state.seen and not state.gone
    examined: set[str] = set()
    for read in _examine(sources, known, config, workers, stack):
        examined |= read.keys()
        for uri, new in read.items():
            earlier = known.get(uri, Known())
            sha256 = new.sha256 or earlier.sha256
            seconds = earlier.seconds if new.seconds is None else new.seconds
            known[uri] = Known(sha256=sha256, seconds=seconds)

    plan = make_plan(sources, config, known)
    preparation = prepare(folder, plan, state, known, retry_quarantined=retry_quarantined)
    if is_lost:
        before = _indexed_uris(preparation)
        removed = len(before.difference(sources.uris))
    changes = Changes(
        sources=len(sources),
        added=sum(uri not in before for uri in sources.uris),
        changed=len(doubtful),
        removed=removed,
        shards=len(plan.shards),
        pending=len(preparation.pending),
        pending_segments=preparation.pending.segments,
    )
    return _Build(
        out=folder,
        sources=sources,
        examined=[sources[row] for row, uri in enumerate(sources.uris) if uri in examined],
        ignored=ignored,
        state=state,
        known=known,
        plan=plan,
        preparation=preparation,
        changes=changes,
        doubtful=doubtful,
    )


def _indexed_uris(preparation: Preparation) -> set[str]:
    """Sources of the earlier index: what was built, where the state was lost."""
    if preparation.index is None:
        return set()
    return set(preparation.index.source_columns("uri").column("uri").to_pylist())


def _count_changed(index: Index, doubtful: Mapping[str, str]) -> int:
    """How many sources have another content than before."""
    if not doubtful:
        return 0
    table = index.source_columns("uri", "sha256")
    found = table.filter(pc.is_in(table.column("uri"), pa.array(list(doubtful))))
    uris = found.column("uri").to_pylist()
    contents = zip(uris, found.column("sha256").to_pylist(), strict=True)
    return sum(doubtful[uri] != sha256 for uri, sha256 in contents)


def _examine(
    sources: SourceTable,
    known: dict[str, Known],
    config: PipelineConfig,
    workers: int | None,
    stack: contextlib.ExitStack,
) -> Iterator[dict[str, Known]]:
    """Read the headers of large files, and compare files of equal size, by tasks."""
    lengths = list(examine.length_batches(sources, known, config))
    equal = list(examine.equal_batches(sources, known))
    if not lengths and not equal:
        return
    stack.enter_context(ray_session(workers))
    options = {"num_cpus": 1, "max_retries": 3}
    total = sum(len(batch) for batch in (*lengths, *equal))
    with progress("headers", total) as advance:
        for work, batches in ((examine.read_lengths, lengths), (examine.read_equal, equal)):
            waiting = collections.deque(batches)
            for ended in run_tasks(
                work, waiting, lambda batch: (batch,), workers=workers, options=options
            ):
                yield ended.result()
                advance(len(ended.job))
