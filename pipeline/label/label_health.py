"""Label health: figures about the labels of a shard or a data set, from stored counts alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from corrfractal.shards.index import Index
from corrfractal.shards.manifest import LabelStatistics, Manifest


@dataclass(frozen=True, kw_only=True)
class Health:
    """Label health of a shard, or of all shards. A *label set* is one view of one clip.

    Attributes:
        name: of the shard, or ``"all"``.
        clips: stored.
        label_sets: stored.
        entropy: bits a pixel, 0 .. log2 of the number of clusters.
        change_rate: share of pixels whose label differs from that of the same pixel one stored
            frame earlier.
        occupancy: share of the pixels with the most frequent label of their label set, the second,
            and so on.
        empty: mean number of clusters without a pixel per label set.
        with_empty: share of the label sets that have such clusters.
        dominated: share of the label sets with one label on over 90 % of their pixels.
        still: share of the label sets in which under 1 % of the labels change from frame to frame.
        cuts: shot cuts, which no clip spans.
        cuts_per_minute: per minute of video.
        static: clips left out because their motion is below ``min_motion``.
        static_rate: their share of all clips, stored and left out.
    """

    name: str
    clips: int
    label_sets: int
    entropy: float
    change_rate: float
    occupancy: tuple[float, ...]
    empty: float
    with_empty: float
    dominated: float
    still: float
    cuts: int
    cuts_per_minute: float
    static: int
    static_rate: float


def data_set_health(manifest: Manifest, index: Index) -> Health:
    """Health of all shards together."""
    sources = index.source_columns("frames", "fps")
    frames = sources.column("frames").to_numpy()
    fps = sources.column("fps").to_numpy()
    readable = fps > 0
    return _health(
        name="all",
        clips=manifest.statistics.samples,
        labels=manifest.statistics.labels,
        cuts=manifest.statistics.cuts,
        static=manifest.statistics.static,
        seconds=float((frames[readable] / fps[readable]).sum()),
        clusters=clusters(manifest),
    )


def shards_health(manifest: Manifest, index: Index) -> Iterator[Health]:
    """Health of each shard, in stored order."""
    columns = ("name", "samples", "cuts", "static", "seconds")
    rows = index.shard_table.select(columns).to_pylist()
    for row, labels in zip(rows, index.label_statistics(), strict=True):
        yield _health(
            name=row["name"],
            clips=row["samples"],
            labels=labels,
            cuts=row["cuts"],
            static=row["static"],
            seconds=row["seconds"],
            clusters=clusters(manifest),
        )


def clusters(manifest: Manifest) -> int:
    """K, the number of labels of a data set."""
    return int(manifest.config["quantization"]["clusters"])


def _health(
    *,
    name: str,
    clips: int,
    labels: LabelStatistics,
    cuts: int,
    static: int,
    seconds: float,
    clusters: int,
) -> Health:
    label_sets = max(1, labels.label_sets)
    used = sum(count * number for number, count in enumerate(labels.by_used, start=1))
    without_empty = sum(labels.by_used[clusters - 1 :])
    return Health(
        name=name,
        clips=clips,
        label_sets=labels.label_sets,
        entropy=labels.entropy,
        change_rate=labels.change_rate,
        occupancy=labels.occupancy[:clusters],
        empty=(clusters * labels.label_sets - used) / label_sets,
        with_empty=(labels.label_sets - without_empty) / label_sets,
        dominated=labels.dominated / label_sets,
        still=labels.still / label_sets,
        cuts=cuts,
        cuts_per_minute=60 * cuts / seconds if seconds else 0.0,
        static=static,
        static_rate=static / max(1, clips + static),
    )
