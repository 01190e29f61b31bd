"""One segment of a video -> clips with labels in a tar.

A source is read by decord. If that fails anywhere, PyAV reads it again from the start and decides:
only PyAV notices damage that the codec conceals, and decord was seen to fail one frame earlier or
later from run to run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from corrfractal.common import storage
from corrfractal.common.errors import NotFoundError, VideoError
from corrfractal.shards.clip import Clip, encode_clip
from corrfractal.shards.manifest import LabelStatistics, SampleEntry, SourceEntry
from corrfractal.video import Video, open_video
from corrfractal.video.content import ATTEMPTS, CHANGED, content_sha256, state
from pipeline.config import PipelineConfig
from pipeline.discover.segments import Segment
from pipeline.label.pseudo_labels import label_statistics, label_views
from pipeline.sample.decode import RawClip, Tally, decode_clips

from .tar import TarWriter

# Reasons are stored in sidecars and the manifest: another text is another digest.
REPLACED = "the file has changed since it was listed, or did not arrive complete"
MOVED = "the file was moved or removed after it was listed"


@dataclass(frozen=True, kw_only=True)
class SegmentSamples:
    """What one segment contributes to its shard.

    Attributes:
        entry: outcome of the segment, with the reason if it was not sampled.
        samples: position and size of each stored clip.
        statistics: of the labels of these clips.
    """

    entry: SourceEntry
    samples: tuple[SampleEntry, ...] = ()
    statistics: LabelStatistics = field(default_factory=LabelStatistics)


def sample_segment(segment: Segment, config: PipelineConfig, tar: TarWriter) -> SegmentSamples:
    """Append the clips of a segment to ``tar``. A damaged or missing source is no error: the entry
    of the result says what is wrong with it."""
    source = segment.source
    if not source.sha256:
        return quarantined(segment, "read", source.fault)
    try:
        with storage.local_copy(source.path) as path:
            return _sample_unchanged(segment, path, config, tar)
    except FileNotFoundError:
        return quarantined(segment, "read", MOVED)


def quarantined(
    segment: Segment, stage: str, reason: str, frame: int | None = None
) -> SegmentSamples:
    """The result for a segment that gave nothing; ``frame`` is the first damaged one."""
    entry = replace(
        _entry(segment),
        outcome="quarantined",
        stage=stage,
        reason=reason,
        first_bad_frame=frame,
    )
    return SegmentSamples(entry=entry)


def _entry(segment: Segment) -> SourceEntry:
    return SourceEntry(
        uri=segment.source.uri,
        sha256=segment.source.sha256,
        outcome="sampled",
        segment=segment.number,
        segments=segment.count,
    )


def _sample_unchanged(
    segment: Segment, path: Path, config: PipelineConfig, tar: TarWriter
) -> SegmentSamples:
    """Sample a source while its bytes match its SHA-256.

    A file that changes during the read may make a decoder fail in any way, so both clips and errors
    of such a read are discarded, and the file is read again.
    """
    mark = tar.position
    known = segment.source.state
    for _ in range(ATTEMPTS):
        # Hash again only if something touched the file since it was listed.
        try:
            before = state(path)
            if before != known and content_sha256(path) != segment.source.sha256:
                return quarantined(segment, "read", REPLACED)
        except FileNotFoundError:
            return quarantined(segment, "read", MOVED)
        except OSError as exc:
            return quarantined(segment, "read", str(exc.strerror or exc))

        sampled = _sample_file(segment, path, config, tar)
        try:
            unchanged = state(path) == before
        except OSError:
            unchanged = False
        if unchanged:
            return sampled
        tar.rewind(mark)
        known = ""
    return quarantined(segment, "read", CHANGED)


def _sample_file(
    segment: Segment, path: Path, config: PipelineConfig, tar: TarWriter
) -> SegmentSamples:
    """Sample a file with decord, and with PyAV if that fails."""
    mark = tar.position
    try:
        video = open_video(path, size=(config.size, config.size))
        sampled = _sample_video(segment, video, config, tar)
        if sampled.entry.outcome == "quarantined" and video.info.decoder == "decord":
            tar.rewind(mark)
            sampled = _sample_video(segment, open_video(path, "pyav"), config, tar)
    except VideoError as exc:
        return quarantined(segment, exc.stage, exc.reason, exc.frame)
    except NotFoundError as exc:
        # The reason is stored: it names the source, not a path of this machine.
        return quarantined(segment, "open", str(exc).replace(str(path), segment.source.uri))
    return sampled


def _sample_video(
    segment: Segment, video: Video, config: PipelineConfig, tar: TarWriter
) -> SegmentSamples:
    """Store the clips of an open video; of a damaged one, those before the damage."""
    samples: list[SampleEntry] = []
    statistics = LabelStatistics()
    tally = Tally()
    damage: VideoError | None = None

    # 1. Label and store clip by clip: memory use is independent of the segment's length.
    try:
        for raw in decode_clips(video, config, segment.start, segment.stop, tally):
            clip = _label(raw, segment, config)
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
