"""One segment of a video -> clips with labels in a tar.

A source is read by decord. If that fails anywhere, PyAV reads it again from the start and decides:
only PyAV notices damage that the codec conceals, and decord was seen to fail one frame earlier or
later from run to run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from corrfractal.common.errors import NotFoundError, VideoError
from corrfractal.shards.clip import Clip, encode_clip
from corrfractal.shards.manifest import LabelStatistics, SampleEntry, SourceEntry
from corrfractal.video import Video, open_video
from corrfractal.video.content import (
    ATTEMPTS,
    CHANGED,
    Content,
    content_sha256,
    read_content,
    state,
)
from pipeline.config import PipelineConfig
from pipeline.discover.segments import Segment
from pipeline.label.pseudo_labels import label_statistics, label_views
from pipeline.sample.decode import RawClip, Tally, decode_clips

from .clip_copies import ClipCopies, SegmentSamples
from .shared_copy import copy_of
from .tar import TarWriter

# Reasons are stored in sidecars and the index: another text is another digest.
MOVED = "the file was moved or removed after it was listed"


def sample_segment(
    segment: Segment, config: PipelineConfig, tar: TarWriter, copies: ClipCopies, build: str
) -> SegmentSamples:
    """Append the clips of a segment to ``tar``. A damaged or missing source is no error: the entry
    of the result says what is wrong with it. Clips that an earlier build stored are copied.
    ``build``: see ``shared_copy.copy_of``."""
    source = segment.source
    if source.fault:
        return quarantined(segment, "", "read", source.fault)
    try:
        with copy_of(segment, build) as path:
            return _sample_unchanged(segment, path, config, tar, copies)
    except FileNotFoundError:
        return quarantined(segment, "", "read", MOVED)


def quarantined(
    segment: Segment, sha256: str, stage: str, reason: str, frame: int | None = None
) -> SegmentSamples:
    """The result for a segment that gave nothing.

    Args:
        segment: that could not be sampled.
        sha256: of its source; ``""`` if that was not read.
        stage, reason: of the failure.
        frame: the first damaged one.
    """
    entry = replace(
        _entry(segment, sha256),
        outcome="quarantined",
        stage=stage,
        reason=reason,
        first_bad_frame=frame,
    )
    return SegmentSamples(entry=entry)


def _entry(segment: Segment, sha256: str) -> SourceEntry:
    return SourceEntry(
        uri=segment.source.uri,
        sha256=sha256,
        outcome="sampled",
        segment=segment.number,
        segments=segment.count,
    )


def _sample_unchanged(
    segment: Segment, path: Path, config: PipelineConfig, tar: TarWriter, copies: ClipCopies
) -> SegmentSamples:
    """Hash a source and sample it, if its bytes are the same from the first read to the last.

    A file that changes during the read may make a decoder fail in any way, so both clips and errors
    of such a read are discarded, and the file is read again.
    """
    mark = tar.position
    for _ in range(ATTEMPTS):
        try:
            before = state(path)
            content = read_content(path)
        except VideoError as exc:
            return quarantined(segment, "", exc.stage, exc.reason)
        except FileNotFoundError:
            return quarantined(segment, "", "read", MOVED)
        except OSError as exc:
            return quarantined(segment, "", "read", str(exc.strerror or exc))

        sampled = copies.copy(segment, content.sha256, tar)
        if sampled is None:
            sampled = _sample_file(segment, content.sha256, path, config, tar)
        if _is_still(path, content, before):
            return sampled
        tar.rewind(mark)
    return quarantined(segment, "", "read", CHANGED)


def _is_still(path: Path, content: Content, before: str) -> bool:
    """Whether a file still has the content that was hashed.

    Args:
        path: the file, or a frame folder.
        content: as hashed.
        before: its state before that.
    """
    try:
        if state(path) != before:
            return False
        # A file written within the resolution of the file system's clock before it was hashed has
        # an equal state whatever was written since, so it is hashed again.
        return bool(content.state) or content_sha256(path) == content.sha256
    except OSError:
        return False


def _sample_file(
    segment: Segment, sha256: str, path: Path, config: PipelineConfig, tar: TarWriter
) -> SegmentSamples:
    """Sample a file with decord, and with PyAV if that fails."""
    mark = tar.position
    try:
        video = open_video(path, size=(config.size, config.size))
        sampled = _sample_video(segment, sha256, video, config, tar)
        if sampled.entry.outcome == "quarantined" and video.info.decoder == "decord":
            tar.rewind(mark)
            sampled = _sample_video(segment, sha256, open_video(path, "pyav"), config, tar)
    except VideoError as exc:
        return quarantined(segment, sha256, exc.stage, exc.reason, exc.frame)
    except NotFoundError as exc:
        # The reason is stored: it names the source, not a path of this machine.
        reason = str(exc).replace(str(path), segment.source.uri)
        return quarantined(segment, sha256, "open", reason)
    return sampled


def _sample_video(
    segment: Segment, sha256: str, video: Video, config: PipelineConfig, tar: TarWriter
) -> SegmentSamples:
    """Store the clips of an open video; of a damaged one, those before the damage."""
    samples: list[SampleEntry] = []
    statistics = LabelStatistics()
    tally = Tally()
    damage: VideoError | None = None

    # 1. Label and store clip by clip: memory use is independent of the segment's length.
    try:
        for raw in decode_clips(video, config, segment.start, segment.stop, tally):
            clip = _label(raw, segment, sha256, config)
            offset = tar.position
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
    except VideoError as exc:
        damage = exc

    # 2. Record the outcome.
    entry = replace(
        _entry(segment, sha256),
        clips=len(samples),
        frames=video.info.frames,
        fps=round(video.info.fps, 3),
        decoder=video.info.decoder,
        frames_stored=sum(sample.frames for sample in samples),
        cuts=tally.cuts,
        static=tally.static,
    )
    if damage is not None:
        # A folder of frames keeps its full count; a video file counts the frames before the damage.
        frames = entry.frames if damage.frame is None else min(entry.frames, damage.frame)
        entry = replace(
            entry,
            outcome="quarantined",
            frames=frames,
            stage=damage.stage,
            reason=damage.reason,
            first_bad_frame=damage.frame,
        )
    elif not samples:
        reason = _why_no_clip(video, tally, config)
        entry = replace(entry, outcome="rejected", stage="clips", reason=reason)
    return SegmentSamples(entry=entry, samples=tuple(samples), statistics=statistics)


def _label(raw: RawClip, segment: Segment, sha256: str, config: PipelineConfig) -> Clip:
    key = segment.clip_key(sha256, raw.number)
    labels, codebooks = label_views(raw.frames, key, config)
    meta = {
        "source": segment.source.uri,
        "source_sha256": sha256,
        "frame_indices": list(raw.indices),
        "seconds": list(raw.seconds),
        "codebooks": [codebook.to_json() for codebook in codebooks],
    }
    return Clip(key=key, frames=raw.frames, labels=labels, meta=meta)


def _why_no_clip(video: Video, tally: Tally, config: PipelineConfig) -> str:
    clip = config.clip
    if tally.static:
        return (
            f"static: next to nothing moves in its {tally.static} clips "
            f"(min_motion {clip.min_motion:g})"
        )
    seconds = float(video.times()[-1])
    cuts = f" and without one of its {tally.cuts} shot cuts" if tally.cuts else ""
    return (
        f"too short: {video.info.frames} frames in {seconds:.2f} s; a clip takes {clip.frames} "
        f"frames at {clip.fps:g} per second, {(clip.frames - 1) / clip.fps:.2f} s, without a gap "
        f"over {clip.max_gap:g} s{cuts}"
    )
