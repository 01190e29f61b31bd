"""Inspect finished shards: counts of sources, label health of the data set and of each shard, and
lost sources. All of it comes from the manifest and the index, no shard is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corrfractal.shards.index import Index
from corrfractal.shards.manifest import Manifest, SourceEntry, load_manifest
from pipeline.label.label_health import Health, data_set_health, shards_health

READERS = 8
# Rows of the tables: a data set may have millions of shards and lost sources.
SHARDS_SHOWN = 60
LOST_SHOWN = 400
REASONS_SHOWN = 20
# Reasons can be as many as lost sources, if each names its own frame.
REASONS_KEPT = 1000


@dataclass(frozen=True, kw_only=True)
class ReasonCount:
    """Number of sources that were lost for the same reason, fields as in ``SourceEntry``."""

    outcome: str
    stage: str | None
    reason: str | None
    sources: int


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Sources by kind, and the sizes of shards.

    Attributes:
        by_outcome: sources by outcome.
        by_reason: those that are not sampled, most frequent reason first, at most
            ``REASONS_KEPT``.
        reasons: number of different reasons.
        by_decoder: sources by decoder, most frequent first; ``""`` if none opened it.
        shard_bytes: smallest, median and largest shard, in bytes: ``min``, ``median``, ``max``.
    """

    by_outcome: dict[str, int]
    by_reason: tuple[ReasonCount, ...]
    reasons: int
    by_decoder: dict[str, int]
    shard_bytes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The manifest and index of a folder of shards, summarised.

    Attributes:
        shards: the folder, or its URI.
        manifest: as stored.
        index: of the folder.
        counts: sources by outcome, reason and decoder, and the sizes of shards.
        health: label health of the data set.
        by_shard: label health of each shard, in order.
        lost: quarantined and rejected sources.
    """

    shards: str
    manifest: Manifest
    index: Index
    counts: Counts
    health: Health
    by_shard: tuple[Health, ...]
    lost: tuple[SourceEntry, ...]

    @property
    def least_healthy(self) -> tuple[Health, ...]:
        """All shards in order; of more than ``SHARDS_SHOWN``, those of lowest entropy."""
        if len(self.by_shard) <= SHARDS_SHOWN:
            return self.by_shard
        return tuple(sorted(self.by_shard, key=lambda shard: shard.entropy)[:SHARDS_SHOWN])


def inspect(shards: str | Path) -> Inspection:
    """Read the manifest and the index of a folder of shards.

    Raises:
        NotFoundError: there are no finished shards.
        IntegrityError: a file is damaged.
    """
    manifest = load_manifest(shards)
    index = Index(shards, manifest)
    return Inspection(
        shards=str(shards),
        manifest=manifest,
        index=index,
        counts=count(index),
        health=data_set_health(manifest, index),
        by_shard=tuple(shards_health(manifest, index)),
        lost=tuple(index.lost_sources()),
    )


def count(index: Index) -> Counts:
    """Group the sources by their columns."""
    sources = index.source_columns("outcome", "stage", "reason", "decoder")
    by_outcome = _group(sources, ["outcome"])
    by_decoder = _group(sources, ["decoder"])
    lost = sources.filter(pc.not_equal(sources.column("outcome"), "sampled"))
    by_reason = _group(lost, ["outcome", "stage", "reason"])
    sizes = index.shard_table.column("bytes").to_numpy()
    return Counts(
        by_outcome={row["outcome"]: row["sources"] for row in by_outcome.to_pylist()},
        by_reason=tuple(ReasonCount(**row) for row in by_reason[:REASONS_KEPT].to_pylist()),
        reasons=len(by_reason),
        by_decoder={row["decoder"]: row["sources"] for row in by_decoder.to_pylist()},
        shard_bytes={
            "min": int(sizes.min()) if len(sizes) else 0,
            "median": int(np.median(sizes)) if len(sizes) else 0,
            "max": int(sizes.max()) if len(sizes) else 0,
        },
    )


def _group(table: pa.Table, columns: list[str]) -> pa.Table:
    """Rows by the values of some columns: those columns and ``sources``, the number of rows; the
    largest group first."""
    groups = table.group_by(columns).aggregate([([], "count_all")])
    groups = groups.rename_columns(
        ["sources" if name == "count_all" else name for name in groups.column_names]
    )
    order = [("sources", "descending"), *((name, "ascending") for name in columns)]
    return groups.sort_by(order).select([*columns, "sources"])


def lines(found: Inspection) -> Iterator[str]:
    """An inspection as text."""
    statistics = found.manifest.statistics
    health = found.health
    yield (
        f"{statistics.sources} sources = {statistics.sampled} sampled + {statistics.quarantined} "
        f"quarantined + {statistics.rejected} rejected; {health.cuts} shot cuts, "
        f"{health.cuts_per_minute:.1f} a minute; {health.static} static clips left out"
    )
    yield (
        f"{statistics.samples} clips in {len(found.by_shard)} shards, "
        f"{statistics.bytes / 1e6:.1f} MB; a shard has {found.counts.shard_bytes['min'] / 1e6:.1f} "
        f"to {found.counts.shard_bytes['max'] / 1e6:.1f} MB"
    )
    decoders = [f"{name or 'none'} {count}" for name, count in found.counts.by_decoder.items()]
    yield f"sources by decoder: {', '.join(decoders)}"
    yield (
        f"labels: {health.entropy:.2f} bits a pixel of at most "
        f"{np.log2(len(health.occupancy)):.0f}; {health.change_rate:.1%} of them change from frame "
        "to frame"
    )
    yield (
        f"label sets: {health.label_sets}; {health.with_empty:.1%} with an empty cluster, "
        f"{health.dominated:.1%} with one label on over 90 % of the pixels, {health.still:.1%} "
        "with under 1 % change"
    )

    yield "\npixels by the rank of their label"
    top = max(health.occupancy)
    for rank, share in enumerate(health.occupancy, start=1):
        yield f"{rank:4} {share:6.1%} {'#' * round(40 * share / top)}"

    yield (
        f"\n{'shard':24}{'clips':>6}{'bits':>7}{'change':>8}{'empty':>8}{'domin.':>8}{'still':>8}"
        f"{'cuts/min':>10}"
    )
    for shard in found.least_healthy:
        yield (
            f"{shard.name.removesuffix('.tar'):24}{shard.clips:6}{shard.entropy:7.2f}"
            f"{shard.change_rate:8.1%}{shard.with_empty:8.1%}{shard.dominated:8.1%}"
            f"{shard.still:8.1%}{shard.cuts_per_minute:10.1f}"
        )

    if found.lost:
        yield "\nreasons, by number of sources"
    for reason in found.counts.by_reason[:REASONS_SHOWN]:
        yield f"{reason.sources:8} {reason.outcome:12} {reason.stage}: {reason.reason}"
    if found.counts.reasons > REASONS_SHOWN:
        yield f"... and {found.counts.reasons - REASONS_SHOWN} more reasons"
    if found.lost:
        yield "\nquarantined and rejected"
    for source in found.lost[:LOST_SHOWN]:
        yield f"{source.outcome:12} {source.uri}: {source.stage}: {source.reason}"
    if len(found.lost) > LOST_SHOWN:
        yield f"... and {len(found.lost) - LOST_SHOWN} more, see index/sources.parquet"


def to_json(found: Inspection) -> dict[str, Any]:
    """An inspection as plain values, the fields of ``corrfractal inspect --json``."""
    return {
        "shards": found.shards,
        "digest": found.manifest.digest,
        "statistics": asdict(found.manifest.statistics),
        "counts": asdict(found.counts),
        "health": asdict(found.health),
        "by_shard": [asdict(shard) for shard in found.by_shard],
        "lost": [asdict(source) for source in found.lost],
    }
