"""A build in this process, without Ray: what ``pipeline.run.precompute`` does, for fixtures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corrfractal.shards.index import Index
from corrfractal.shards.manifest import Manifest, load_manifest
from pipeline.config import PipelineConfig
from pipeline.discover import examine
from pipeline.discover.sources import find_sources
from pipeline.discover.work_plan import Known, Plan, make_plan
from pipeline.store.commit import commit, outline_of
from pipeline.store.execute import record
from pipeline.store.prepare import Preparation, begin, prepare
from pipeline.store.shard_task import ShardStats, make_shard
from pipeline.store.state import BuildState
from pipeline.store.verify import check_shards


def plan_build(
    names: Sequence[str | Path],
    out: str | Path,
    config: PipelineConfig,
    *,
    retry_quarantined: bool = False,
) -> tuple[Plan, Preparation, BuildState, dict[str, Known]]:
    """List, examine and plan; nothing is written."""
    sources = find_sources([str(name) for name in names], skip=out)
    state = BuildState(str(out))
    known = state.known(sources)
    lengths = list(examine.length_batches(sources, known, config))
    equal = list(examine.equal_batches(sources, known))
    for work, batches in ((examine.read_lengths, lengths), (examine.read_equal, equal)):
        for batch in batches:
            for uri, new in work(batch).items():
                earlier = known.get(uri, Known())
                seconds = earlier.seconds if new.seconds is None else new.seconds
                known[uri] = Known(sha256=new.sha256 or earlier.sha256, seconds=seconds)
    plan = make_plan(sources, config, known)
    preparation = prepare(str(out), plan, state, known, retry_quarantined=retry_quarantined)
    return plan, preparation, state, known


def build_shards(names: Sequence[str | Path], out: str | Path, config: PipelineConfig) -> Manifest:
    """Build shards; return the manifest."""
    return run_build(names, out, config).manifest


@dataclass(frozen=True)
class LocalBuild:
    """A finished build: names of the shards that were written, and numbers of clips."""

    manifest: Manifest
    made: tuple[str, ...]
    stored: int
    copied: int


def run_build(
    names: Sequence[str | Path],
    out: str | Path,
    config: PipelineConfig,
    *,
    retry_quarantined: bool = False,
) -> LocalBuild:
    """Build shards."""
    sources = find_sources([str(name) for name in names], skip=out)
    plan, preparation, state, known = plan_build(
        names, out, config, retry_quarantined=retry_quarantined
    )
    begin(str(out), plan, preparation)
    state.record_sources(sources, known)
    state.flush()
    made = []
    total = ShardStats()
    try:
        for task in preparation.pending:
            result = make_shard(task.spec, str(out), config, None, task.earlier, task.rebuild)
            record(task.spec, result, state, known)
            total += result.stats
            if result.stats.made:
                made.append(task.spec.name)
    finally:
        state.flush()
    outline = outline_of(str(out), plan, preparation)
    state.compact(sources, outline.names)
    manifest = commit(str(out), outline)
    return LocalBuild(manifest, tuple(made), total.clips, total.copied)


def stored_files(folder: str | Path) -> dict[str, bytes]:
    """Every file of a folder of shards but the state, which is knowledge of one machine."""
    root = Path(folder)
    files = [path for path in root.rglob("*") if path.is_file() and path.parent.name != ".state"]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def verify(out: str | Path) -> list[str]:
    """What ``pipeline.store.verify`` finds, without Ray: one sentence per damaged file."""
    shards = Index(out, load_manifest(out)).shards
    found = check_shards(str(out), shards)
    return [fault for faults in found.values() for fault in faults]
