"""Label health: what the counts of a shard, or of a data set, say about its labels, as figures that
can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from corrfractal.shards.manifest import LabelStatistics, Manifest, Sidecar, SourceEntry


@dataclass(frozen=True, kw_only=True)
class Health:
    """Label health of a shard, or of all of them.

    Attributes:
        name: of the shard, or ``"all"``.
        clips: stored.
        label_sets: one for each view of each clip.
        entropy: bits a pixel, 0 .. log2 of the number of clusters.
        change_rate: share of pixels whose label differs from the one at their place one stored
            frame earlier.
        occupancy: share of the pixels under the most frequent label of their label set, the second,
            and so on.
        empty: mean number of clusters without a pixel, of a label set.
        with_empty: share of the label sets that have such clusters.
        dominated: share of the label sets with over nine tenths of their pixels under one label.
        still: share of the label sets in which under a hundredth of the labels changes from frame
            to frame.
        cuts: shot cuts that no clip spans.
        cuts_per_minute: of the videos' length.
        static: clips left out because next to nothing moves in them (``min_motion``).
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


def data_set_health(manifest: Manifest) -> Health:
    """Health of all shards together."""
    statistics = manifest.statistics
    seconds = sum(source.frames / source.fps for source in manifest.sources if source.fps)
    return _health(
        "all", statistics.samples, statistics.labels, manifest.sources, seconds, clusters(manifest)
    )


def shard_health(sidecar: Sidecar, clusters: int) -> Health:
    """Health of one shard, whose labels are of that many clusters."""
    # The entry of a segment counts the frames of its whole video.
    seconds = sum(
        source.frames / source.fps / source.segments for source in sidecar.sources if source.fps
    )
    return _health(
        sidecar.name,
        len(sidecar.samples),
        sidecar.label_statistics,
        sidecar.sources,
        seconds,
        clusters,
    )


def clusters(manifest: Manifest) -> int:
    """K, the number of labels that a data set was made with."""
    return int(manifest.config["quantization"]["clusters"])


def _health(
    name: str,
    clips: int,
    labels: LabelStatistics,
    sources: Sequence[SourceEntry],
    seconds: float,
    clusters: int,
) -> Health:
    sets = max(1, labels.label_sets)
    used = sum(count * number for number, count in enumerate(labels.by_used, start=1))
    full = sum(labels.by_used[clusters - 1 :])
    cuts, static = sum(source.cuts for source in sources), sum(source.static for source in sources)
    return Health(
        name=name,
        clips=clips,
        label_sets=labels.label_sets,
        entropy=labels.entropy,
        change_rate=labels.change_rate,
        occupancy=labels.occupancy[:clusters],
        empty=(clusters * labels.label_sets - used) / sets,
        with_empty=(labels.label_sets - full) / sets,
        dominated=labels.dominated / sets,
        still=labels.still / sets,
        cuts=cuts,
        cuts_per_minute=60 * cuts / seconds if seconds else 0.0,
        static=static,
        static_rate=static / max(1, clips + static),
    )
