"""One shard specification -> one tar and its sidecar: the body of a task. No state outside it, no Ray in it.

A source is read by decord. If that fails anywhere, PyAV reads it again from the start and has the last word: it alone
notices damage that the codec conceals, and decord was seen to give up one frame earlier or later from run to run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2

from corrfractal.errors import IntegrityError, NotFoundError, VideoError
from corrfractal.manifest import (
    LabelStatistics,
    SampleEntry,
    Sidecar,
    SourceEntry,
    read_sealed,
    seal,
    sidecar_path,
    to_text,
)
from corrfractal.runtime import file_sha256, publish, write_text
from corrfractal.sample import Clip, encode_clip
from corrfractal.video import Video, open_video

from .config import PipelineConfig
from .decode import RawClip, decode_clips
from .labels import label_statistics, label_views
from .sources import Source
from .tar import TarWriter


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """The work of one task: the sources of the shard ``name``; ``digest`` covers all that decides its bytes."""

    name: str
    sources: tuple[Source, ...]
    digest: str


@dataclass(frozen=True, kw_only=True)
class _Sampled:
    """What one source gave to its shard."""

    entry: SourceEntry
    samples: tuple[SampleEntry, ...] = ()
    statistics: LabelStatistics = field(default_factory=LabelStatistics)


def make_shard(spec: ShardSpec, out: Path, config: PipelineConfig, crashed: Collection[str] = ()) -> int:
    """Make a shard and its sidecar in the folder ``out``, unless both are there and whole.

    Args:
        spec: what to make.
        out: folder of the shards.
        config: how.
        crashed: URIs of sources that killed a worker before; they are quarantined unread.

    Returns:
        The number of frames stored; 0 if there was nothing to do.
    """
    if is_whole(spec, out):
        return 0
    cv2.setNumThreads(1)
    note = crash_note(spec, out)
    with tempfile.NamedTemporaryFile(dir=out, prefix=f".{spec.name}.", suffix=".tmp", delete=False) as file:
        tar = TarWriter(file)  # type: ignore[arg-type]
        parts = []
        for source in spec.sources:
            note.write_text(source.uri, encoding="utf-8")
            parts.append(_crashed(source) if source.uri in crashed else _sample(source, config, tar))
        tar.close()
    temporary = Path(file.name)
    sidecar = Sidecar(
        name=spec.name,
        spec=spec.digest,
        sha256=file_sha256(temporary),
        bytes=temporary.stat().st_size,
        samples=tuple(sample for part in parts for sample in part.samples),
        sources=tuple(part.entry for part in parts),
        label_statistics=sum((part.statistics for part in parts), LabelStatistics()),
    )
    temporary.chmod(0o644)
    publish(temporary, out / spec.name)
    write_text(sidecar_path(out / spec.name), to_text(seal(sidecar)))
    note.unlink(missing_ok=True)
    return sum(sample.frames for sample in sidecar.samples)


def is_whole(spec: ShardSpec, out: Path) -> bool:
    """Whether the shard was made from this very specification and every byte of it is still there."""
    try:
        sidecar = read_sealed(sidecar_path(out / spec.name), Sidecar)
        return sidecar.spec == spec.digest and sidecar.sha256 == file_sha256(out / spec.name)
    except (IntegrityError, FileNotFoundError):
        return False


def crash_note(spec: ShardSpec, out: Path) -> Path:
    """The file that names the source at work, for the day when a decoder kills its process."""
    return out / f".{spec.name}.source"


def _sample(source: Source, config: PipelineConfig, tar: TarWriter) -> _Sampled:
    if not source.sha256:
        return _bad(source, "read", "the file cannot be read")
    mark = tar.position
    try:
        video = open_video(source.path)
        sampled = _read(source, video, config, tar)
        if sampled.entry.outcome == "quarantined" and video.info.decoder == "decord":
            tar.rewind(mark)
            sampled = _read(source, open_video(source.path, "pyav"), config, tar)
    except VideoError as exc:
        return _bad(source, exc.stage, exc.reason)
    except (NotFoundError, OSError) as exc:
        return _bad(source, "open", str(exc).replace(source.path, source.uri))
    return sampled


def _read(source: Source, video: Video, config: PipelineConfig, tar: TarWriter) -> _Sampled:
    """Store the clips of an open video; keep those before a damage."""
    samples: list[SampleEntry] = []
    statistics = LabelStatistics()
    damage: VideoError | None = None
    clips = decode_clips(video, config)
    while True:
        try:
            raw = next(clips, None)
        except VideoError as exc:
            damage, raw = exc, None
        if raw is None:
            break
        offset = tar.position
        clip = _label(raw, source, config)
        length = tar.add(encode_clip(clip))
        samples.append(
            SampleEntry(key=clip.key, offset=offset, length=length, frames=len(clip.frames), views=len(clip.labels))
        )
        statistics += label_statistics(clip.labels)
    entry = SourceEntry(
        uri=source.uri,
        sha256=source.sha256,
        outcome="sampled",
        clips=len(samples),
        frames=video.info.frames,
        fps=round(video.info.fps, 3),
        decoder=video.info.decoder,
    )
    if damage is not None:
        entry = replace(
            entry,
            outcome="quarantined",
            stage=damage.stage,
            reason=damage.reason,
            first_bad_frame=damage.frame,
            frames_salvaged=sum(sample.frames for sample in samples),
        )
    elif not samples:
        entry = replace(entry, outcome="rejected", stage="clips", reason=_too_short(video, config))
    return _Sampled(entry=entry, samples=tuple(samples), statistics=statistics)


def _label(raw: RawClip, source: Source, config: PipelineConfig) -> Clip:
    key = f"{source.id}_{raw.number:05d}"
    labels, codebooks = label_views(raw.frames, key, config)
    meta = {
        "source": source.uri,
        "source_sha256": source.sha256,
        "frame_indices": list(raw.indices),
        "seconds": list(raw.seconds),
        "codebooks": [codebook.to_json() for codebook in codebooks],
    }
    return Clip(key=key, frames=raw.frames, labels=labels, meta=meta)


def _too_short(video: Video, config: PipelineConfig) -> str:
    clip, seconds = config.clip, float(video.times()[-1])
    return (
        f"too short: {video.info.frames} frames in {seconds:.2f} s; a clip takes {clip.frames} frames at {clip.fps:g} "
        f"per second, {(clip.frames - 1) / clip.fps:.2f} s, without a gap over {clip.max_gap:g} s"
    )


def _bad(source: Source, stage: str, reason: str) -> _Sampled:
    entry = SourceEntry(uri=source.uri, sha256=source.sha256, outcome="quarantined", stage=stage, reason=reason)
    return _Sampled(entry=entry)


def _crashed(source: Source) -> _Sampled:
    return _bad(source, "decode", "reading it killed the worker process, repeatedly")
