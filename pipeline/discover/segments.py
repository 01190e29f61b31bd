"""Sources -> segments -> groups of segments, one group per shard. Pure arithmetic on a listing.

A long video is cut into segments of about ``segment_seconds``, each sampled like a video of its
own, so that one video of two hours occupies all workers and the content of a shard is bounded. The
last segment is open-ended, since a header may promise less than the file contains. Each segment of
a long video is a shard; short videos share shards, see ``grouping``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from corrfractal.video.timestamps import FOLDER_FPS
from pipeline.config import PipelineConfig

from .grouping import group
from .source_table import Source, SourceTable, as_table
from .sources import source_id

LEAST_BYTES = 100_000
"""Of a segment: a damaged header may promise years."""

LEAST_RATE = 50_000
"""Bytes per second. A video of fewer bytes than a segment has at this rate is taken as shorter than
a segment without a look at its header: only listings are read before the tasks start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """The part of a source from ``start`` up to ``stop``, seconds of presentation time.

    Attributes:
        source: the video.
        number, count: which part, of how many.
        start, stop: seconds; ``stop`` is infinite for the last part.
    """

    source: Source
    number: int = 0
    count: int = 1
    start: float = 0.0
    stop: float = math.inf

    @property
    def name(self) -> str:
        """Unique within a data set."""
        return f"{self.source.uri}#{self.number}"

    def clip_key(self, sha256: str, clip: int) -> str:
        """Key of a clip of a video with this content, unique within a data set."""
        part = f"{self.number:03d}-" if self.count > 1 else ""
        return f"{source_id(self.source.uri, sha256)}_{part}{clip:05d}"

    def identity(self) -> list[str | float | int | None]:
        """What decides which samples are drawn from the video, as plain values."""
        stop = None if math.isinf(self.stop) else self.stop
        return [self.source.uri, self.number, self.count, self.start, stop]


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """What one shard is made of: short videos, or one segment of a long one.

    Attributes:
        rows: positions of the sources.
        number, count: as in ``Segment``.
    """

    rows: Sequence[int]
    number: int = 0
    count: int = 1

    def segments(self, sources: Sequence[Source], config: PipelineConfig) -> tuple[Segment, ...]:
        """The segments, of sources that the positions refer to."""
        return tuple(_cut(sources[row], self.number, self.count, config) for row in self.rows)


def needs_length(source: Source, config: PipelineConfig) -> bool:
    """Whether a video may be longer than a segment, so that its header must be read."""
    return not source.fault and not source.files and source.bytes > _short_bytes(config)


def long_rows(sources: SourceTable, config: PipelineConfig) -> list[int]:
    """Positions of the sources that ``needs_length`` names."""
    is_long = (sources.files == 0) & (sources.bytes > _short_bytes(config))
    return [row for row in np.flatnonzero(is_long).tolist() if row not in sources.faults]


def _short_bytes(config: PipelineConfig) -> float:
    """A file of at most this size is taken as shorter than a segment."""
    return max(LEAST_BYTES, LEAST_RATE * config.segment_seconds)


def count_segments(source: Source, seconds: float, config: PipelineConfig) -> int:
    """Number of segments of a source; ``seconds`` is its length by the header, 0 if unknown."""
    if source.files:
        seconds = source.files / FOLDER_FPS
    wanted = round(seconds / config.segment_seconds)
    return max(1, min(wanted, source.bytes // LEAST_BYTES))


def cut_source(source: Source, count: int, config: PipelineConfig) -> list[Segment]:
    """``count`` segments of a source."""
    return [_cut(source, number, count, config) for number in range(count)]


def _cut(source: Source, number: int, count: int, config: PipelineConfig) -> Segment:
    is_last = number == count - 1
    return Segment(
        source=source,
        number=number,
        count=count,
        start=number * config.segment_seconds,
        stop=math.inf if is_last else (number + 1) * config.segment_seconds,
    )


def group_segments(
    sources: Sequence[Source], counts: Iterable[int], config: PipelineConfig
) -> Iterator[ShardGroup]:
    """Groups of segments, one per shard, sorted by their first segment.

    Args:
        sources: sorted by URI.
        counts: number of segments of each; 0: it is left out.
        config: ``videos_per_shard`` is the mean number of short videos of a shard.
    """
    table = as_table(sources)
    short = []
    groups: list[ShardGroup] = []
    for row, (uri, size, count) in enumerate(
        zip(table.uris, table.bytes.tolist(), counts, strict=True)
    ):
        if count == 1:
            short.append(_ShortVideo(uri, size, row))
        else:
            groups += [ShardGroup([row], number, count) for number in range(count)]

    mean = config.videos_per_shard
    bounds = {"most": 2 * mean, "most_bytes": int(4 * LEAST_RATE * config.segment_seconds)}
    for members in group(short, mean=mean, **bounds):
        groups.append(ShardGroup([member.row for member in members]))
    groups.sort(key=lambda found: (table.uris[found.rows[0]], found.number))
    yield from groups


class _ShortVideo(NamedTuple):
    """What ``group`` needs of a source, and its position."""

    uri: str
    bytes: int
    row: int
