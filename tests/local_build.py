"""A build in this process, without Ray: what ``pipeline.run.precompute`` does, for fixtures."""

from __future__ import annotations

from collections.abc import Sequence
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
from pipeline.store.shard_task import make_shard
from pipeline.store.state import BuildState
from pipeline.store.verify import check_shards


def plan_build(
    names: Sequence[str | Path], out: str | Path, config: PipelineConfig
) -> tuple[Plan, Preparation, BuildState, dict[str, Known]]:
    """List, examine and plan; nothing is written."""
    sources = find_sources([str(name) for name in names], skip=out)
    state = BuildState(str(out))
    known = state.known(sources)
    for batch in examine.length_batches(sources, known, config):
        known |= examine.read_lengths(batch)
    for batch in examine.equal_batches(sources, known):
        known |= examine.read_equal(batch)
    plan = make_plan(sources, config, known)
    return plan, prepare(str(out), plan, state, known), state, known


def build_shards(names: Sequence[str | Path], out: str | Path, config: PipelineConfig) -> Manifest:
    """Build shards; return the manifest."""
    plan, preparation, state, known = plan_build(names, out, config)
    begin(str(out), plan, preparation)
    for task in preparation.pending:
        result = make_shard(task.spec, str(out), config, None, task.earlier, task.rebuild)
        record(task.spec, result, state, known)
    manifest = commit(str(out), outline_of(str(out), plan, preparation))
    sources = {
        segment.source.uri: segment.source for spec in plan.shards for segment in spec.segments
    }
    state.compact(list(sources.values()), [spec.name for spec in plan.shards])
    return manifest


def verify(out: str | Path) -> list[str]:
    """What ``pipeline.store.verify`` finds, without Ray: one sentence per damaged file."""
    shards = Index(out, load_manifest(out)).shards
    found = check_shards(str(out), shards)
    return [fault for faults in found.values() for fault in faults]
