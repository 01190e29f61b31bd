"""What a video file shows, according to its container: the track, the frames, the orientation.

A file is demuxed once by PyAV, without decoding (about 4 microseconds a packet), before any decoder
opens it. decord and PyAV disagree about edit lists, several tracks, mirrored matrices and streams
that do not begin with a key frame; the decisions made here hold for both decoders and for every
command.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrfractal.common.errors import VideoError

from .ffmpeg_log import capture_log, decoder_reason
from .orientation import Orientation
from .packets import PacketSummary, summarize_packets

# MPEG streams have no index: decord repeated frames, lost their times and failed at the end. GIF
# and its relatives count a frame's duration where others count its start.
WITHOUT_INDEX = ("mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "gif", "apng")

# A playlist names other files and addresses, so its author would choose what is read.
PLAYLISTS = ("hls", "concat", "dash", "sdp", "image2", "imf", "webm_dash_manifest")

# Headers are rounded: a shorter missing end is not truncation.
TAIL_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class ContainerInfo:
    """What is known of a video file before its frames are decoded.

    Attributes:
        path: absolute path.
        track: index of the stream that is shown.
        header_frames: number of frames according to the header; None if it does not say.
        packets: packets of the track, shown or not.
        frames: packets that are shown; a codec may make more or fewer frames of them.
        seconds: from the first frame shown to the end of the last.
        height, width: of the stored picture, in pixels.
        fps: frames per second according to the header; None if it does not say.
        clock: seconds of the frames in order, for files that store when to decode a packet but not
            when to show it (AVI); None otherwise.
        orientation: from the display matrix of the track.
        late_key: packets precede the first key frame; they are not shown.
        drops_leading: pictures precede the first key frame in time, and must be dropped before
            the decoder reports them as damage.
        cut_short: why the file ends earlier than its header says, or None.
        decord_fault: why decord would show other frames than a player, or None.
    """

    path: Path
    track: int
    header_frames: int | None
    packets: int
    frames: int
    seconds: float
    height: int
    width: int
    fps: float | None
    clock: tuple[float, ...] | None
    orientation: Orientation
    late_key: bool
    drops_leading: bool
    cut_short: str | None
    decord_fault: str | None


def read_container(path: Path) -> ContainerInfo:
    """Read the tables and packets of a video file.

    Raises:
        VideoError: (stage ``"open"``) it is not a video, or it is a playlist.
    """
    try:
        with open_container(path) as container:
            stream = choose_track(container, path)
            orientation = _orientation(container, stream, path)
            with capture_log() as errors:
                packets = summarize_packets(container, stream)
            return ContainerInfo(
                path=path.absolute(),
                track=stream.index,
                header_frames=stream.frames or None,
                packets=packets.count,
                frames=packets.shown,
                seconds=_seconds(stream, packets),
                height=stream.codec_context.height,
                width=stream.codec_context.width,
                fps=_header_fps(stream),
                clock=_clock(container, stream, packets),
                orientation=orientation,
                late_key=packets.late_key,
                drops_leading=packets.leading and stream.codec_context.name == "h264",
                cut_short=_cut_short(path, container, stream, packets),
                decord_fault=_decord_fault(container, stream, packets, orientation, bool(errors)),
            )
    except VideoError:
        raise
    except Exception as exc:
        raise VideoError(str(path), "open", decoder_reason(exc)) from exc


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """A video file opened by PyAV.

    Raises:
        VideoError: (stage ``"open"``) it is a playlist.
    """
    import av

    # In a relative path FFmpeg reads the text before a colon as a protocol ("a:b.mp4").
    with av.open(str(path.absolute()), metadata_errors="replace") as container:
        if set(container.format.name.split(",")) & set(PLAYLISTS):
            raise VideoError(
                str(path), "open", "it is a list of other files, not a video; name those files"
            )
        yield container


def choose_track(container: Any, path: Path) -> Any:
    """The video stream that a player shows: no cover picture, no still, preferably the default.

    Raises:
        VideoError: (stage ``"open"``) there is none.
    """
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
    moving = [stream for stream in container.streams.video if not stream.disposition & still]
    if not moving:
        what = "no video stream, only a picture" if container.streams.video else "no video stream"
        raise VideoError(str(path), "open", f"it has {what}")
    best = container.streams.best("video")

    def preference(stream: Any) -> tuple[bool, bool, bool, int]:
        is_default = bool(stream.disposition & Disposition.default)
        return stream.frames != 1, is_default, stream is best, -stream.index

    return max(moving, key=preference)


def frame_orientation(frame: Any) -> Orientation:
    """The orientation that a frame's display matrix asks for, to the nearest quarter turn.

    The matrix (a b; c d), 16.16 fixed point, maps (x, y) to (a x + c y, b x + d y); source:
    ISO/IEC 14496-12, track header box.

    Args:
        frame: decoded by PyAV; None counts as no matrix.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX") if frame is not None else None
    if matrix is None:
        return Orientation()
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if max(abs(b), abs(c)) > max(abs(a), abs(d)):
        return Orientation(transposed=True, flip_rows=b < 0, flip_columns=c < 0)
    return Orientation(flip_rows=d < 0, flip_columns=a < 0)


def _orientation(container: Any, stream: Any, path: Path) -> Orientation:
    """Orientation of a track."""
    import av.logging

    # PyAV exposes the matrix only on decoded frames, so decode one, but only if there is a matrix.
    with capture_log(av.logging.INFO):
        description = container.dumps_format().lower().replace(" ", "")
    if "displaymatrix" not in description:
        return Orientation()
    with open_container(path) as second:
        frame = next(second.decode(second.streams[stream.index]), None)
        return frame_orientation(frame)


def _header_fps(stream: Any) -> float | None:
    # The average rate of a raw stream is FFmpeg's default; the guessed one comes from the stream.
    rate = stream.guessed_rate or stream.average_rate
    return float(rate) if rate and 1 / 3600 <= rate <= 1000 else None


def _seconds(stream: Any, packets: PacketSummary) -> float:
    """Length of what is shown; from the header's frame rate if the packets have no times."""
    fps = _header_fps(stream)
    if packets.span == 0 and fps is not None:
        return packets.shown / fps
    return packets.span * float(stream.time_base)


def _clock(container: Any, stream: Any, packets: PacketSummary) -> tuple[float, ...] | None:
    """Seconds of the frames if presentation times are missing or unusable, otherwise None."""
    # AVI stores no presentation times, and those that FFmpeg guesses are out of order.
    if packets.without_time or container.format.name == "avi":
        return packets.decode_seconds(float(stream.time_base))
    return None


def _decord_fault(
    container: Any, stream: Any, packets: PacketSummary, orientation: Orientation, damaged: bool
) -> str | None:
    """Why decord would show other frames than a player, or None."""
    formats = container.format.name.split(",")
    # FFmpeg's parsers recognise key frames that the container does not mark. decord relies on them:
    # it seeks one, arrives at an earlier one, and returns all later frames under a wrong index.
    indexed_keys = sum(entry.is_keyframe for entry in stream.index_entries)
    checks = (
        (set(formats) & set(WITHOUT_INDEX), "its container has no index"),
        (len(container.streams.video) > 1, "it has several video tracks"),
        (packets.trimmed, "its edit list trims frames"),
        (packets.without_time, "frames have no time"),
        (packets.late_key, "it does not begin with a key frame"),
        (packets.leading, "frames come before the first key frame in time"),
        (packets.keys > indexed_keys, "its index lacks key frames"),
        (orientation.mirrored, "it is shown mirrored"),
        (damaged, "its container is damaged"),
    )
    return next((reason for applies, reason in checks if applies), None)


def _cut_short(path: Path, container: Any, stream: Any, packets: PacketSummary) -> str | None:
    """Why the file ends earlier than its header says, or None.

    Decoders do not notice that if the container survives the cut, so the times of the packets are
    compared with the length in the header.
    """
    with path.open("rb") as file:
        head = file.read(12)
    size = path.stat().st_size
    if len(head) == 12 and head[:4] == b"RIFF":
        promised = struct.unpack("<I", head[4:8])[0] + 8
        if promised > size:
            return f"the file is cut short: {size} of {promised} bytes"

    declared = _declared_seconds(container, stream)
    if declared is None or packets.end is None or packets.first is None:
        return None
    if packets.last == packets.first and packets.count > 1:
        return None  # all packets have the same time: there is no clock to compare with

    # Headers count the length from the start of the clock or from the first frame.
    time_base = float(stream.time_base)
    end = max(packets.end, packets.end - packets.first) * time_base
    tolerance = TAIL_SECONDS + 1.5 / (_header_fps(stream) or 24.0)
    if declared - end > tolerance:
        return f"the file is cut short: it ends at {end:.2f} s of {declared:.2f} s"
    return None


def _declared_seconds(container: Any, stream: Any) -> float | None:
    """Length of the track according to the header; None if it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # The length of a container is that of its longest track, which may be an audio track.
    if container.duration and len(container.streams) == 1:
        return float(container.duration / 1e6)
    return None
