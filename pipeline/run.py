"""Videos -> shards, from end to end: list, plan, execute, commit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from corrfractal.common import storage
from corrfractal.common.errors import BoundExceededError
from corrfractal.common.output_guard import refuse_overlap
from corrfractal.shards.manifest import QUARANTINE
from corrfractal.video.discovery import discover
from pipeline.discover.sources import read_sources
from pipeline.discover.work_plan import make_plan
from pipeline.report.build_result import PrecomputeResult
from pipeline.store.commit import commit, prepare
from pipeline.store.execute import execute

from .config import PipelineConfig


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
    continues a stopped one, and builds nothing if all shards are complete.

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
        CorrFractalError: no source gave a clip, or a shard could not be written.
    """
    started = time.monotonic()
    cpu_started = time.process_time()

    # 1. List: names only, so that an output that overlaps an input is refused at once.
    refuse_overlap({"--out": out}, (*sources, *files))
    out = storage.resolve(out)
    found = discover(sources, skip=[out])
    refuse_overlap({"--out": out}, [entry.location for entry in found.entries])

    # 2. Plan: hash every source; decide all shards, and which of them are still to be built.
    plan = make_plan(read_sources(found.entries), config)
    planning_seconds = time.process_time() - cpu_started
    pending = prepare(out, plan, retry_quarantined)

    # 3. Execute: one Ray task per shard.
    built = execute(pending, out, config, workers)

    # 4. Commit: the manifest over all shards.
    manifest = commit(out, plan)
    statistics = manifest.statistics
    if statistics.quarantined > config.max_bad * statistics.sources:
        raise BoundExceededError(
            f"{statistics.quarantined} of {statistics.sources} sources are damaged, more than a "
            f"share of {config.max_bad:.4g} (max_bad); see {storage.join(out, QUARANTINE)}. The "
            "shards of the others are complete"
        )
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
        frames=built.frames,
        seconds=round(time.monotonic() - started, 2),
        core_hours=(planning_seconds + built.core_seconds) / 3600,
        worker_mb=round(built.peak_mb, 1),
        ignored=found.ignored,
    )
