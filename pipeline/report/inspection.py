"""Inspect finished shards: label health of the data set and of each shard, and lost sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corrfractal.shards.index import ClipIndex, Index
from corrfractal.shards.manifest import Manifest, SourceEntry, load_manifest
from pipeline.label.label_health import Health, data_set_health, shards_health

READERS = 8
# Rows of the tables: a data set may have millions of shards and lost sources.
SHARDS_SHOWN = 60
LOST_SHOWN = 400


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The manifest and index of a folder of shards, summarised.

    Attributes:
        shards: the folder, or its URI.
        manifest: as stored.
        clips: position of every clip.
        health: label health of the data set.
        by_shard: label health of each shard, in order.
        lost: quarantined and rejected sources.
    """

    shards: str
    manifest: Manifest
    clips: ClipIndex
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
        clips=index.clips,
        health=data_set_health(manifest, index),
        by_shard=tuple(shards_health(manifest, index)),
        lost=tuple(index.lost_sources()),
    )


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
        f"{statistics.bytes / 1e6:.1f} MB"
    )
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
        "health": asdict(found.health),
        "by_shard": [asdict(shard) for shard in found.by_shard],
        "lost": [asdict(source) for source in found.lost],
    }
