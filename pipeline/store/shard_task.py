"""One shard specification -> one tar and its sidecar: the body of a task. No state outside it, no
Ray in it.

A source is read by decord. If that fails anywhere, PyAV reads it again from the start and has the
last word: it alone notices damage that the codec conceals, and decord was seen to give up one frame
earlier or later from run to run.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import cv2

from corrfractal.common import storage
from corrfractal.common.errors import IntegrityError, NotFoundError, VideoError
from corrfractal.common.files import file_sha256
from corrfractal.common.process import peak_rss_mb
from corrfractal.shards.clip import Clip, encode_clip
from corrfractal.shards.manifest import (
    LabelStatistics,
    SampleEntry,
    Sidecar,
    SourceEntry,
    read_sealed,
    seal,
    sidecar_name,
    to_text,
)
from corrfractal.video import Video, open_video
from corrfractal.video.content import ATTEMPTS, CHANGED, content_sha256, state
from pipeline.config import PipelineConfig
from pipeline.discover.segments import Segment
from pipeline.label.pseudo_labels import label_statistics, label_views
from pipeline.sample.decode import RawClip, Tally, decode_clips

from .limits import limited
from .tar import TarWriter

REPLACED = "the file has changed since it was listed, or did not arrive complete"
MOVED = "the file was moved or removed after it was listed"


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """The work of one task: the segments of the shard ``name``; ``digest`` covers all that decides
    its bytes."""

    name: str
    segments: tuple[Segment, ...]
    digest: str


@dataclass(frozen=True, kw_only=True)
class ShardStats:
    """What making a shard came to: clips and frames stored, segments that gave clips, and those
    that did not or not wholly (quarantined, rejected); the processor time that it took, and the
    worker's peak memory so far."""

    clips: int = 0
    frames: int = 0
    sampled: int = 0
    quarantined: int = 0
    rejected: int = 0
    core_seconds: float = 0.0
    peak_mb: float = 0.0

    def __add__(self, other: ShardStats) -> ShardStats:
        sums = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
        }
        return ShardStats(**{**sums, "peak_mb": max(self.peak_mb, other.peak_mb)})


@dataclass(frozen=True, kw_only=True)
class _Sampled:
    """What one segment gave to its shard."""

    entry: SourceEntry
    samples: tuple[SampleEntry, ...] = ()
    statistics: LabelStatistics = field(default_factory=LabelStatistics)


def make_shard(
    spec: ShardSpec, out: str, config: PipelineConfig, crashed: Mapping[str, str] | None = None
) -> ShardStats:
    """Make a shard and its sidecar in the folder ``out``, unless both are there and whole.

    Args:
        spec: what to make.
        out: folder of the shards, a local path or a URI.
        config: how.
        crashed: segments that killed a worker before, and why; they are quarantined unread.

    Returns:
        What was stored; nothing if there was nothing to do.
    """
    started = time.process_time()
    if is_whole(spec, out):
        return ShardStats()
    cv2.setNumThreads(1)
    note = crash_note(spec, out)
    with tempfile.NamedTemporaryFile(
        dir=storage.scratch(out), prefix=f".{spec.name}.", suffix=".tmp", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            tar = TarWriter(file)  # type: ignore[arg-type]
            parts = []
            for segment in spec.segments:
                leave_note(note, segment.name)
                if crashed and segment.name in crashed:
                    parts.append(_bad(segment, "decode", crashed[segment.name]))
                    continue
                with limited(
                    config.max_cpu_seconds,
                    config.max_memory_mb,
                    partial(leave_note, note, segment.name),
                ):
                    parts.append(_sample(segment, config, tar))
            tar.close()
        except BaseException:
            temporary.unlink()  # a full disk is not made fuller
            raise
    temporary.chmod(0o644)
    sidecar = Sidecar(
        name=spec.name,
        spec=spec.digest,
        sha256=file_sha256(temporary),
        bytes=temporary.stat().st_size,
        samples=tuple(sample for part in parts for sample in part.samples),
        sources=tuple(part.entry for part in parts),
        label_statistics=sum((part.statistics for part in parts), LabelStatistics()),
    )
    # The sidecar first: no shard is ever there without a note of its hash, which allows to delete
    # it.
    storage.write(storage.join(out, sidecar_name(spec.name)), to_text(seal(sidecar)).encode())
    storage.put(temporary, storage.join(out, spec.name))
    storage.remove(note)
    outcomes = [part.entry.outcome for part in parts]
    return ShardStats(
        clips=len(sidecar.samples),
        frames=sum(sample.frames for sample in sidecar.samples),
        sampled=outcomes.count("sampled"),
        quarantined=outcomes.count("quarantined"),
        rejected=outcomes.count("rejected"),
        core_seconds=time.process_time() - started,
        peak_mb=peak_rss_mb(),
    )


def is_whole(spec: ShardSpec, out: str) -> bool:
    """Whether the shard was made from this very specification and every byte of it is still there."""
    try:
        sidecar = read_sealed(storage.join(out, sidecar_name(spec.name)), Sidecar)
        return sidecar.spec == spec.digest and sidecar.sha256 == storage.sha256(
            storage.join(out, spec.name)
        )
    except (IntegrityError, FileNotFoundError):
        return False


def crash_note(spec: ShardSpec, out: str) -> str:
    """The file that names the segment at work, for the day when a decoder kills its process."""
    return storage.join(out, f".{spec.name}.segment")


def leave_note(note: str, segment: str, reason: str = "") -> None:
    """Write which segment is at work, or why the process ends over it."""
    storage.write(note, json.dumps({"segment": segment, "reason": reason}).encode())


def read_note(spec: ShardSpec, out: str) -> tuple[str, str]:
    """The segment that was at work, and why its process ended over it; empty where that is not
    known."""
    try:
        note = json.loads(storage.read(crash_note(spec, out)))
        return str(note["segment"]), str(note["reason"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return "", ""


def _sample(segment: Segment, config: PipelineConfig, tar: TarWriter) -> _Sampled:
    source = segment.source
    if not source.sha256:
        return _bad(segment, "read", source.fault)
    try:
        with storage.local_copy(source.path) as path:
            return _sample_unchanged(segment, path, config, tar)
    except FileNotFoundError:
        return _bad(segment, "read", MOVED)


def _sample_unchanged(
    segment: Segment, path: Path, config: PipelineConfig, tar: TarWriter
) -> _Sampled:
    """Store the clips of a source, if all its bytes were those that its SHA-256 was made of, from
    the first read to the last. What is done meanwhile to the file may have any effect on a decoder,
    so its errors do not count either."""
    mark = tar.position
    known = segment.source.state
    for _ in range(ATTEMPTS):
        try:
            before = state(path)
            if before != known and content_sha256(path) != segment.source.sha256:
                return _bad(segment, "read", REPLACED)
        except OSError as exc:
            return _bad(
                segment,
                "read",
                MOVED if isinstance(exc, FileNotFoundError) else str(exc.strerror or exc),
            )
        sampled = _sample_file(segment, path, config, tar)
        if _unchanged(path, before):
            return sampled
        tar.rewind(mark)
        known = ""
    return _bad(segment, "read", CHANGED)


def _unchanged(path: Path, before: str) -> bool:
    try:
        return state(path) == before
    except OSError:
        return False


def _sample_file(segment: Segment, path: Path, config: PipelineConfig, tar: TarWriter) -> _Sampled:
    mark = tar.position
    try:
        video = open_video(path, size=(config.size, config.size))
        sampled = _read(segment, video, config, tar)
        if sampled.entry.outcome == "quarantined" and video.info.decoder == "decord":
            tar.rewind(mark)
            sampled = _read(segment, open_video(path, "pyav"), config, tar)
    except VideoError as exc:
        return _bad(segment, exc.stage, exc.reason, exc.frame)
    except NotFoundError as exc:
        return _bad(segment, "open", str(exc).replace(str(path), segment.source.uri))
    return sampled


def _read(segment: Segment, video: Video, config: PipelineConfig, tar: TarWriter) -> _Sampled:
    """Store the clips of an open video; keep those before a damage."""
    samples: list[SampleEntry] = []
    statistics = LabelStatistics()
    damage: VideoError | None = None
    tally = Tally()
    clips = decode_clips(video, config, segment.start, segment.stop, tally)
    while True:
        try:
            raw = next(clips, None)
        except VideoError as exc:
            damage, raw = exc, None
        if raw is None:
            break
        offset = tar.position
        clip = _label(raw, segment, config)
        length = tar.add(encode_clip(clip))
        samples.append(
            SampleEntry(
                key=clip.key,
                offset=offset,
                length=length,
                frames=len(clip.frames),
                views=len(clip.labels),
            )
        )
        statistics += label_statistics(clip.labels)
    entry = replace(
        _entry(segment),
        clips=len(samples),
        frames=video.info.frames,
        fps=round(video.info.fps, 3),
        decoder=video.info.decoder,
        frames_stored=sum(sample.frames for sample in samples),
        cuts=tally.cuts,
        static=tally.static,
    )
    if damage is not None:
        entry = replace(
            entry,
            outcome="quarantined",
            # A folder of frames promises all its files; a video file counts its sound frames.
            frames=entry.frames if damage.frame is None else min(entry.frames, damage.frame),
            stage=damage.stage,
            reason=damage.reason,
            first_bad_frame=damage.frame,
        )
    elif not samples:
        entry = replace(
            entry, outcome="rejected", stage="clips", reason=_no_clip(video, tally, config)
        )
    return _Sampled(entry=entry, samples=tuple(samples), statistics=statistics)


def _label(raw: RawClip, segment: Segment, config: PipelineConfig) -> Clip:
    key = segment.clip_key(raw.number)
    labels, codebooks = label_views(raw.frames, key, config)
    meta = {
        "source": segment.source.uri,
        "source_sha256": segment.source.sha256,
        "frame_indices": list(raw.indices),
        "seconds": list(raw.seconds),
        "codebooks": [codebook.to_json() for codebook in codebooks],
    }
    return Clip(key=key, frames=raw.frames, labels=labels, meta=meta)


def _no_clip(video: Video, tally: Tally, config: PipelineConfig) -> str:
    clip, seconds = config.clip, float(video.times()[-1])
    if tally.static:
        return f"static: next to nothing moves in its {tally.static} clips (min_motion {clip.min_motion:g})"
    return (
        f"too short: {video.info.frames} frames in {seconds:.2f} s; a clip takes {clip.frames} "
        f"frames at {clip.fps:g} per second, {(clip.frames - 1) / clip.fps:.2f} s, without a gap "
        f"over {clip.max_gap:g} s"
        + (f" and without one of its {tally.cuts} shot cuts" if tally.cuts else "")
    )


def _entry(segment: Segment) -> SourceEntry:
    return SourceEntry(
        uri=segment.source.uri,
        sha256=segment.source.sha256,
        outcome="sampled",
        segment=segment.number,
        segments=segment.count,
    )


def _bad(segment: Segment, stage: str, reason: str, frame: int | None = None) -> _Sampled:
    return _Sampled(
        entry=replace(
            _entry(segment),
            outcome="quarantined",
            stage=stage,
            reason=reason,
            first_bad_frame=frame,
        )
    )
