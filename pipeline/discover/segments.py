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

from corrfractal.video.timestamps import FOLDER_FPS
from pipeline.config import PipelineConfig

from .grouping import group
from .sources import Source, source_id

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


def needs_length(source: Source, config: PipelineConfig) -> bool:
    """Whether a video may be longer than a segment, so that its header must be read."""
    least = max(LEAST_BYTES, LEAST_RATE * config.segment_seconds)
    return not source.fault and not source.files and source.bytes > least


def count_segments(source: Source, seconds: float, config: PipelineConfig) -> int:
    """Number of segments of a source; ``seconds`` is its length by the header, 0 if unknown."""
    if source.files:
        seconds = source.files / FOLDER_FPS
    wanted = round(seconds / config.segment_seconds)
    return max(1, min(wanted, source.bytes // LEAST_BYTES))


def cut_source(source: Source, count: int, config: PipelineConfig) -> list[Segment]:
    """``count`` segments of a source."""
    edges = [number * config.segment_seconds for number in range(count)] + [math.inf]
    return [
        Segment(
            source=source, number=number, count=count, start=edges[number], stop=edges[number + 1]
        )
        for number in range(count)
    ]


def group_segments(
    sources: Sequence[Source], counts: Iterable[int], config: PipelineConfig
) -> Iterator[tuple[Segment, ...]]:
    """Groups of segments, one per shard, sorted by their first segment.

    Args:
        sources: sorted by URI.
        counts: number of segments of each.
        config: ``videos_per_shard`` is the mean number of short videos of a shard.
    """
    short = []
    groups: list[tuple[Segment, ...]] = []
    for source, count in zip(sources, counts, strict=True):
        if count == 1:
            short.append(source)
        else:
            groups += [(segment,) for segment in cut_source(source, count, config)]

    mean = config.videos_per_shard
    bounds = {"most": 2 * mean, "most_bytes": int(4 * LEAST_RATE * config.segment_seconds)}
    for members in group(short, mean=mean, **bounds):
        groups.append(tuple(Segment(source=source) for source in members))
    groups.sort(key=lambda segments: (segments[0].source.uri, segments[0].number))
    yield from groups
