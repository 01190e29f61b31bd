"""Sources -> segments -> groups of segments, one group per shard. Pure arithmetic.

A long video is cut into segments of about ``segment_seconds``, and each segment is sampled like a
video of its own. So one video of two hours gives work to all workers, and the size of a shard is
bounded. The last segment is open-ended: a header may promise less than the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.config import PipelineConfig

from .sources import Source

# A broken header may promise years: no segment gets fewer bytes of its file than this.
LEAST_BYTES = 100_000


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a source.

    Attributes:
        source: the complete video.
        number: from 0.
        count: segments of the source.
        start, stop: seconds of presentation time, ``stop`` excluded.
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

    def clip_key(self, clip: int) -> str:
        """Key of a clip, unique within a data set."""
        part = f"{self.number:03d}-" if self.count > 1 else ""
        return f"{self.source.id}_{part}{clip:05d}"

    def facts(self) -> list[str | float | int | None]:
        """Everything that decides its samples, as plain values for a digest."""
        stop = None if math.isinf(self.stop) else self.stop
        return [self.source.uri, self.source.sha256, self.number, self.count, self.start, stop]


def cut_source(source: Source, config: PipelineConfig) -> list[Segment]:
    """The segments of a source, in order."""
    by_length = round(source.seconds / config.segment_seconds)
    by_size = source.bytes // LEAST_BYTES
    count = max(1, min(by_length, by_size))
    starts = [number * config.segment_seconds for number in range(count)]
    stops = [*starts[1:], math.inf]
    return [
        Segment(source=source, number=number, count=count, start=start, stop=stop)
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]


def group_segments(
    sources: Sequence[Source], config: PipelineConfig
) -> Iterator[tuple[Segment, ...]]:
    """Group segments in order. A group has at most ``videos_per_shard`` segments that last at most
    ``segment_seconds`` together; a longer segment is a group of its own."""
    group: list[Segment] = []
    group_seconds = 0.0
    for segment in (segment for source in sources for segment in cut_source(source, config)):
        seconds = segment.source.seconds / segment.count
        full = len(group) == config.videos_per_shard
        too_long = group_seconds + seconds > config.segment_seconds
        if group and (full or too_long):
            yield tuple(group)
            group = []
            group_seconds = 0.0
        group.append(segment)
        group_seconds += seconds
    if group:
        yield tuple(group)
