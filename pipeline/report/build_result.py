"""What a build came to, as numbers and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from corrfractal.video.discovery import ignored_summary


@dataclass(frozen=True, kw_only=True)
class PrecomputeResult:
    """What a build did. ``sources`` = ``sampled`` + ``quarantined`` + ``rejected``.

    Attributes:
        digest: of the manifest, the data set's identity.
        shards, samples, bytes: of the complete data set, as in the manifest.
        made: shards built by this run; the others were complete before.
        sources, sampled, quarantined, rejected: sources by outcome.
        frames: stored by this run.
        seconds: wall time of the run.
        core_hours: processor time of the run, without Ray's own.
        worker_mb: peak resident memory of the largest worker, MB.
        ignored: entries of folders and globs that are no videos, counted by the rule that
            excludes them.
    """

    digest: str
    shards: int
    made: int
    samples: int
    bytes: int
    sources: int
    sampled: int
    quarantined: int
    rejected: int
    frames: int
    seconds: float
    core_hours: float = 0.0
    worker_mb: float = 0.0
    ignored: dict[str, int] = field(default_factory=dict)

    @property
    def frames_per_second(self) -> float:
        """Frames stored per second of wall time; 0 if no shard had to be built."""
        return round(self.frames / self.seconds, 1) if self.seconds > 0 else 0.0


def lines(result: PrecomputeResult) -> Iterator[str]:
    """A result as text."""
    yield (
        f"{result.sources} sources = {result.sampled} sampled + {result.quarantined} quarantined + "
        f"{result.rejected} rejected"
    )
    if result.ignored:
        yield ignored_summary(result.ignored)
    yield (
        f"{result.samples} clips in {result.shards} shards, {result.bytes / 1e6:.1f} MB; built "
        f"{result.made} of the shards in {result.seconds:.1f} s, {result.frames_per_second:g} "
        "frames/s"
    )
