"""One shard specification -> one tar and its sidecar: the body of a task. It keeps no state outside
the folder of the shards, and does not import Ray."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import cv2

from corrfractal.common.errors import IntegrityError
from corrfractal.files import storage
from corrfractal.files.atomic import file_sha256
from corrfractal.runtime.process import peak_rss_mb
from corrfractal.shards.manifest import (
    LabelStatistics,
    Sidecar,
    SourceEntry,
    read_sealed,
    seal,
    sidecar_name,
    to_text,
)
from corrfractal.video.content import content_sha256
from pipeline.config import PipelineConfig
from pipeline.discover.segments import Segment
from pipeline.discover.work_plan import ShardSpec

from .clip_copies import ClipCopies
from .limits import limited
from .sample_segment import quarantined, sample_segment
from .shared_copy import copy_of
from .state import shard_stamp
from .tar import TarWriter


@dataclass(frozen=True, kw_only=True)
class ShardStats:
    """What a task stored and used; the sum of two adds counts and keeps the higher peak.

    Attributes:
        clips, frames: stored.
        sampled, quarantined, rejected: segments by outcome.
        made: shards written; an existing one that proved to be unchanged is not.
        copied: clips taken from an earlier shard instead of being decoded.
        core_seconds: processor time of the task.
        peak_mb: peak resident memory of its worker so far, MB.
    """

    clips: int = 0
    frames: int = 0
    sampled: int = 0
    quarantined: int = 0
    rejected: int = 0
    made: int = 0
    copied: int = 0
    core_seconds: float = 0.0
    peak_mb: float = 0.0

    def __add__(self, other: ShardStats) -> ShardStats:
        names = [field.name for field in fields(self)]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        sums["peak_mb"] = max(self.peak_mb, other.peak_mb)
        return ShardStats(**sums)


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What a task returns to the driver.

    Attributes:
        stats: zeros if the shard existed and was unchanged.
        contents: SHA-256 of each source that could be read, by URI.
        sidecar: digest of the sidecar.
        bytes: of the tar as stored.
        stamp: of tar and sidecar, see ``state.shard_stamp``.
    """

    stats: ShardStats
    contents: dict[str, str]
    sidecar: str
    bytes: int
    stamp: str


def make_shard(
    spec: ShardSpec,
    out: str,
    config: PipelineConfig,
    crashed: Mapping[str, str] | None = None,
    earlier: Mapping[str, str] | None = None,
    rebuild: bool = False,
    build: str = "",
) -> ShardResult:
    """Build a shard and its sidecar in the folder ``out``; a no-op if both exist unchanged.

    Args:
        spec: what to build.
        out: folder of the shards, a local path or a URI.
        config: how to sample, label and limit.
        crashed: names of segments that killed a worker before, and why; they are quarantined
            without being read.
        earlier: name of the shard in which an earlier build with the same configuration stored the
            clips of a segment, by name of the segment.
        rebuild: do not look for an existing shard.
        build: identifies the build, whose tasks on a machine share copies of long remote videos;
            ``""``: share none.
    """
    started = time.process_time()
    # Ray runs one task per core; OpenCV's own threads would only compete with them.
    cv2.setNumThreads(1)
    existing = None if rebuild else unchanged_shard(spec, out, build)
    if existing is not None:
        seconds = time.process_time() - started
        return _result(existing, ShardStats(core_seconds=seconds, peak_mb=peak_rss_mb()), out)
    copies = ClipCopies(out, earlier or {})

    # 1. Write all segments into a temporary tar. The note names the one being read: if the decoder
    #    kills this process, the driver reads the note to find out which.
    note = crash_note(spec, out)
    parts = []
    with tempfile.NamedTemporaryFile(
        dir=storage.scratch(out), prefix=f".{spec.name}.", suffix=".tmp", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            tar = TarWriter(file)  # type: ignore[arg-type]
            for segment in spec.segments:
                write_note(note, segment.name)
                if crashed and segment.name in crashed:
                    sha256 = _content_of(segment, build)
                    parts.append(quarantined(segment, sha256, "decode", crashed[segment.name]))
                    continue
                report = partial(write_note, note, segment.name)
                with limited(config.max_cpu_seconds, config.max_memory_mb, report):
                    parts.append(sample_segment(segment, config, tar, copies, build))
            tar.close()
        except BaseException:
            # Also after "no space left on device": the disk must not stay full.
            temporary.unlink()
            raise
    temporary.chmod(0o644)
    sidecar = seal(
        Sidecar(
            name=spec.name,
            spec=spec.digest,
            sha256=file_sha256(temporary),
            bytes=temporary.stat().st_size,
            samples=tuple(sample for part in parts for sample in part.samples),
            sources=tuple(part.entry for part in parts),
            label_statistics=sum((part.statistics for part in parts), LabelStatistics()),
        )
    )

    # 2. Publish the sidecar before the tar: a tar without the record of its hash could never be
    #    proved ours, and so never be removed. An earlier tar goes first: after a kill in between, no
    #    tar stands beside the sidecar of another one.
    storage.remove(storage.join(out, spec.name))
    storage.write(storage.join(out, sidecar_name(spec.name)), to_text(sidecar).encode())
    storage.put(temporary, storage.join(out, spec.name))
    storage.remove(note)

    outcomes = [part.entry.outcome for part in parts]
    stats = ShardStats(
        clips=len(sidecar.samples),
        frames=sum(sample.frames for sample in sidecar.samples),
        sampled=outcomes.count("sampled"),
        quarantined=outcomes.count("quarantined"),
        rejected=outcomes.count("rejected"),
        made=1,
        copied=copies.count,
        core_seconds=time.process_time() - started,
        peak_mb=peak_rss_mb(),
    )
    return _result(sidecar, stats, out)


def _result(sidecar: Sidecar, stats: ShardStats, out: str) -> ShardResult:
    size, tar_stamp = storage.file_fact(storage.join(out, sidecar.name))
    _, sidecar_stamp = storage.file_fact(storage.join(out, sidecar_name(sidecar.name)))
    stamp = shard_stamp(tar_stamp, sidecar_stamp)
    contents = {entry.uri: entry.sha256 for entry in sidecar.sources if entry.sha256}
    return ShardResult(
        stats=stats, contents=contents, sidecar=sidecar.digest, bytes=size, stamp=stamp
    )


def unchanged_shard(spec: ShardSpec, out: str, build: str = "") -> Sidecar | None:
    """The sidecar of an existing shard, if a build would write the same bytes again.

    Sources and tar are hashed. Drivers ask for this only where the state of the folder does not
    know, see ``state``.
    """
    try:
        sidecar = read_sealed(storage.join(out, sidecar_name(spec.name)), Sidecar)
        if sidecar.spec != spec.digest:
            return None
        entries = {(entry.uri, entry.segment): entry for entry in sidecar.sources}
        for segment in spec.segments:
            entry = entries[segment.source.uri, segment.number]
            if not _has_content_of(segment, entry, build):
                return None
        if storage.sha256(storage.join(out, spec.name)) != sidecar.sha256:
            return None
    except (IntegrityError, OSError, KeyError):
        return None
    return sidecar


def _has_content_of(segment: Segment, entry: SourceEntry, build: str) -> bool:
    """Whether a source holds what an entry was made from."""
    fault = segment.source.fault
    if fault:
        return not entry.sha256 and entry.reason == fault
    with copy_of(segment, build) as path:
        return content_sha256(path) == entry.sha256


def _content_of(segment: Segment, build: str) -> str:
    """SHA-256 of a source that is not decoded, so that the next build knows it without decoding it
    either; ``""`` if it cannot be read."""
    try:
        with copy_of(segment, build) as path:
            return content_sha256(path)
    except OSError:
        return ""


def crash_note(spec: ShardSpec, out: str) -> str:
    """Location of the note that names the segment being read."""
    return storage.join(out, f".{spec.name}.segment")


def write_note(note: str, segment: str, reason: str = "") -> None:
    """Record the segment being read, or the reason why it is about to end its process."""
    storage.write(note, json.dumps({"segment": segment, "reason": reason}).encode())


def read_note(spec: ShardSpec, out: str) -> tuple[str, str]:
    """Name of the segment that was being read, and why it ended its process; ``""`` where
    unknown."""
    try:
        note = json.loads(storage.read(crash_note(spec, out)))
        return str(note["segment"]), str(note["reason"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return "", ""
