"""What a build came to, as numbers and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from corrfractal.common.text import counted
from corrfractal.video.discovery import ignored_summary


@dataclass(frozen=True, kw_only=True)
class PrecomputeResult:
    """What a build did. ``sources`` = ``sampled`` + ``quarantined`` + ``rejected``.

    Attributes:
        digest: of the manifest, the data set's identity.
        shards, samples, bytes: of the complete data set, as in the manifest.
        made: shards built by this run; the others were complete before.
        added, changed, removed: sources since the last build of the folder.
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
    added: int = 0
    changed: int = 0
    removed: int = 0
    ignored: dict[str, int] = field(default_factory=dict)

    @property
    def frames_per_second(self) -> float:
        """Frames stored per second of wall time; 0 if no shard had to be built."""
        return round(self.frames / self.seconds, 1) if self.seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a call finds since the last build of its folder, and what it would do.

    Attributes:
        sources: of the listing.
        added, changed, removed: sources since the last build. A source counts as changed by its
            size and time, since contents are not read; a build counts those of other contents.
        shards: of the plan.
        pending: shards to build or to check.
        pending_segments: videos, or segments of long ones, in them.
    """

    sources: int
    added: int
    changed: int
    removed: int
    shards: int
    pending: int
    pending_segments: int


def lines(result: PrecomputeResult) -> Iterator[str]:
    """A result as text."""
    yield (
        f"{counted(result.sources, 'source')} = {result.sampled} sampled + "
        f"{result.quarantined} quarantined + {result.rejected} rejected"
    )
    yield f"since the last build: {change_text(result.added, result.changed, result.removed)}"
    if result.ignored:
        yield ignored_summary(result.ignored)
    yield (
        f"{counted(result.samples, 'clip')} in {counted(result.shards, 'shard')}, "
        f"{result.bytes / 1e6:.1f} MB; built {result.made} of the shards in "
        f"{result.seconds:.1f} s, {result.frames_per_second:g} frames/s"
    )


def change_text(added: int, changed: int, removed: int) -> str:
    """Numbers of sources that were added, changed and removed, for people."""
    return f"{added} new, {changed} changed, {removed} gone"


def preview_lines(changes: Changes) -> Iterator[str]:
    """What a build would do, as text."""
    text = change_text(changes.added, changes.changed, changes.removed)
    yield f"{counted(changes.sources, 'source')}; since the last build: {text}"
    yield (
        f"{counted(changes.pending, 'shard', of=changes.shards)}, with "
        f"{counted(changes.pending_segments, 'video')}, would be built or checked"
    )
