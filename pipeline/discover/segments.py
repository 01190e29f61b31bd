"""Sources -> segments -> groups of segments, one group a shard. Pure arithmetic.

A long video is cut into segments of about ``segment_seconds``, each sampled like a video of its
own: so one video of two hours keeps all workers busy, and what a shard holds has a bound. The last
segment is open-ended, since a header may promise less than the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.config import PipelineConfig

from .sources import Source

LEAST_BYTES = 100_000  # of a segment: a broken header may promise years


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The part of a source from ``start`` up to ``stop``, seconds of presentation time; ``count``
    parts in all."""

    source: Source
    number: int = 0
    count: int = 1
    start: float = 0.0
    stop: float = math.inf

    @property
    def name(self) -> str:
        """Unique within a data set."""
        return f"{self.source.uri}#{self.number}"

    def clip_key(self, clip: int) -> str:
        """Key of a clip, unique within a data set."""
        part = f"{self.number:03d}-" if self.count > 1 else ""
        return f"{self.source.id}_{part}{clip:05d}"

    def facts(self) -> list[str | float | int | None]:
        """What decides its samples, as plain values."""
        stop = None if math.isinf(self.stop) else self.stop
        return [self.source.uri, self.source.sha256, self.number, self.count, self.start, stop]


def cut_source(source: Source, config: PipelineConfig) -> list[Segment]:
    """The segments of a source."""
    count = max(1, min(round(source.seconds / config.segment_seconds), source.bytes // LEAST_BYTES))
    edges = [number * config.segment_seconds for number in range(count)] + [math.inf]
    return [
        Segment(
            source=source, number=number, count=count, start=edges[number], stop=edges[number + 1]
        )
        for number in range(count)
    ]


def group_segments(
    sources: Sequence[Source], config: PipelineConfig
) -> Iterator[tuple[Segment, ...]]:
    """Segments in order, in groups of at most ``videos_per_shard`` and, but for one alone,
    ``segment_seconds``."""
    group: list[Segment] = []
    seconds = 0.0
    for segment in (segment for source in sources for segment in cut_source(source, config)):
        length = segment.source.seconds / segment.count
        if group and (
            len(group) == config.videos_per_shard or seconds + length > config.segment_seconds
        ):
            yield tuple(group)
            group, seconds = [], 0.0
        group.append(segment)
        seconds += length
    if group:
        yield tuple(group)
