"""What a video file shows, by its container's tables: the track, the frames, which way up.

A file is demuxed once by PyAV, without decoding (about 4 microseconds a packet), before a decoder
sees it. decord and PyAV disagree about edit lists, several tracks, mirrored matrices and streams
that do not begin with a key frame; what is decided here holds for both, and for every command.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corrfractal.common.errors import VideoError

from .orientation import Orientation

# MPEG streams carry no index: decord was seen to repeat frames, to lose their times and to give up
# at the end. GIF and its kin count a frame's duration where others count its start.
WITHOUT_INDEX = ("mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "gif", "apng")

# A playlist names other files and addresses: whoever wrote it would choose what is read.
PLAYLISTS = ("hls", "concat", "dash", "sdp", "image2", "imf", "webm_dash_manifest")

_LOCK = threading.Lock()
_LISTENERS: list[None] = []  # one for each block of ``complaints`` that is open

TAIL_SECONDS = 0.25  # headers are rounded; a shorter missing end is not taken for truncation


@dataclass(frozen=True, kw_only=True)
class Container:
    """What is known of a video file before its frames are decoded.

    Attributes:
        path: absolute: FFmpeg takes a colon in a relative name for a protocol.
        track: index of the stream that is shown.
        header_frames: what the header promises; None where it does not say.
        packets: packets of the track, shown or not.
        frames: packets that are shown; a codec may make more or fewer frames of them.
        seconds: from the first frame shown to the end of the last.
        height, width: of the stored picture.
        fps: frames per second by the header; None where it says nothing.
        clock: seconds of the frames in order, where packets say when to decode but not when to
            show (AVI); None otherwise.
        orientation: by the display matrix of the track.
        late_key: packets precede the first key frame; they are not shown.
        drops_leading: pictures precede the first key frame in time, and are to be dropped before
            the decoder reports them as damage.
        cut_short: why the file ends before its header says, or None.
        beyond_decord: why decord would show other frames than a player, or None.
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
    beyond_decord: str | None


@dataclass(kw_only=True)
class _Packets:
    """What one pass over the packets of a track gives; times in the track's time base."""

    count: int = 0
    trimmed: int = 0
    without_time: bool = False
    keys: int = 0
    before_key: int = 0
    leading: bool = False
    first: int | None = None
    last: int | None = None
    end: int | None = None
    decode_times: list[int] = field(default_factory=list)

    @property
    def span(self) -> int:
        """From the start of the first frame to the end of the last."""
        return 0 if self.first is None or self.end is None else self.end - self.first

    def clock(self, base: float) -> tuple[float, ...] | None:
        """Seconds of the frames by the times of decoding, in order."""
        if len(self.decode_times) != self.count:
            return None
        return tuple(time * base for time in sorted(self.decode_times))

    @property
    def shown(self) -> int:
        """Packets that are neither trimmed nor precede the first key frame."""
        return self.count - self.trimmed - (self.before_key if self.late_key else 0)

    @property
    def late_key(self) -> bool:
        """A stream without any key frame is left to the decoder: it may refresh line by line."""
        return self.keys > 0 and self.before_key > 0


def read_container(path: Path) -> Container:
    """Read the tables of a video file.

    Raises:
        VideoError: (stage ``"open"``) it is no video, or a playlist.
    """
    try:
        with open_container(path) as container:
            stream = choose_track(container, path)
            orientation = _orientation(container, stream, path)
            with complaints() as errors:
                packets = _read_packets(container, stream)
            return Container(
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
                beyond_decord=_beyond_decord(container, stream, packets, orientation, list(errors)),
            )
    except VideoError:
        raise
    except Exception as exc:
        raise VideoError(str(path), "open", decoder_reason(exc)) from exc


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """A video file opened by PyAV, which gets an absolute path: in a relative one FFmpeg takes
    what stands before a colon for a protocol.

    Raises:
        VideoError: (stage ``"open"``) it is a playlist.
    """
    import av

    with av.open(str(path.absolute()), metadata_errors="replace") as container:
        if set(container.format.name.split(",")) & set(PLAYLISTS):
            raise VideoError(
                str(path), "open", "it is a list of other files, not a video; name those files"
            )
        yield container


def choose_track(container: Any, path: Path) -> Any:
    """The video stream that a player shows: no cover picture, no still, the default one.

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


@contextmanager
def complaints(level: int | None = None) -> Iterator[list[Any]]:
    """Collect what PyAV's FFmpeg logs on this thread while the block runs: errors by default.

    Its level of logging is one for all threads, so it is raised while any of them is in such a
    block; the list holds the messages of this thread and level once the block has ended.
    """
    import av.logging

    wanted = av.logging.ERROR if level is None else level
    with _listening(), av.logging.Capture(local=True) as messages:
        yield messages
    messages[:] = [message for message in messages if message[0] <= wanted]


@contextmanager
def _listening() -> Iterator[None]:
    import av.logging

    with _LOCK:
        _LISTENERS.append(None)
        av.logging.set_level(av.logging.INFO)
        # A damaged file read twice would be sound the second time
        av.logging.set_skip_repeated(False)
    try:
        yield
    finally:
        with _LOCK:
            _LISTENERS.pop()
            if not _LISTENERS:
                av.logging.set_level(None)


def shown_packets(packets: Iterator[Any], facts: Container) -> Iterator[Any]:
    """Packets from the first key frame on, without pictures that a player does not show.

    A file cut by stream copy may begin in the middle of a group of pictures, or with a key frame
    whose leading pictures refer to frames that were cut away. Decoders drop these by themselves,
    but that of H.264 reports them as damage.
    """
    key: int | None = None
    begun = not facts.late_key
    leading = facts.drops_leading
    for packet in packets:
        if not begun and packet.size:
            begun = packet.is_keyframe
            if not begun:
                continue
        if leading and packet.pts is not None:
            key = packet.pts if key is None else key
            if packet.pts < key:
                continue
            leading = packet.pts == key
        yield packet


def _read_packets(container: Any, stream: Any) -> _Packets:
    found = _Packets()
    key: int | None = None
    may_lead = True
    for packet in container.demux(stream):
        if not packet.size:
            continue
        pts = packet.pts
        if packet.dts is not None:
            found.decode_times.append(packet.dts)
        found.count += 1
        found.keys += packet.is_keyframe
        found.before_key += found.keys == 0
        found.trimmed += packet.is_discard
        if pts is None:
            found.without_time = True
            continue
        if key is None:
            key = pts if packet.is_keyframe else None
        elif may_lead:  # until a packet follows the key frame in time
            may_lead = pts < key
            found.leading = found.leading or may_lead
        if packet.is_discard:
            continue
        found.first = pts if found.first is None else min(found.first, pts)
        if found.last is None or pts > found.last:
            found.last = pts
            found.end = pts + (packet.duration or 0)
    return found


def _seconds(stream: Any, packets: _Packets) -> float:
    """Length of what is shown; by the rate in the header where the packets carry no times."""
    fps = _header_fps(stream)
    if packets.span == 0 and fps is not None:
        return packets.shown / fps
    return packets.span * float(stream.time_base)


def _clock(container: Any, stream: Any, packets: _Packets) -> tuple[float, ...] | None:
    """AVI stores no times to show frames at; those that FFmpeg guesses are out of order."""
    if packets.without_time or container.format.name == "avi":
        return packets.clock(float(stream.time_base))
    return None


def _beyond_decord(
    container: Any, stream: Any, packets: _Packets, orientation: Orientation, errors: list[Any]
) -> str | None:
    formats = container.format.name.split(",")
    # FFmpeg's parsers know key frames that the container does not mark. decord counts on them,
    # seeks one, arrives at an earlier one, and serves all frames from there under a wrong index.
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
        (errors, "its container is damaged"),
    )
    return next((reason for applies, reason in checks if applies), None)


def _orientation(container: Any, stream: Any, path: Path) -> Orientation:
    """By the display matrix, which PyAV gives with a decoded frame only: decode one if needed."""
    import av.logging

    with complaints(av.logging.INFO):
        listing = container.dumps_format().lower().replace(" ", "")
    if "displaymatrix" not in listing:
        return Orientation()
    with open_container(path) as again:
        frame = next(again.decode(again.streams[stream.index]), None)
        return frame_orientation(frame)


def frame_orientation(frame: Any) -> Orientation:
    """The orientation that a frame's display matrix asks for, to the nearest quarter turn.

    The matrix (a b; c d), 16.16 fixed point, maps (x, y) to (a x + c y, b x + d y); source:
    ISO/IEC 14496-12, track header box.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX") if frame is not None else None
    if matrix is None:
        return Orientation()
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if max(abs(b), abs(c)) > max(abs(a), abs(d)):
        return Orientation(transposed=True, flip_rows=b < 0, flip_columns=c < 0)
    return Orientation(flip_rows=d < 0, flip_columns=a < 0)


def _header_fps(stream: Any) -> float | None:
    # That of a raw stream is on average the default of FFmpeg, but guessed from the stream itself.
    rate = stream.guessed_rate or stream.average_rate
    return float(rate) if rate and 1 / 3600 <= rate <= 1000 else None


def _cut_short(path: Path, container: Any, stream: Any, packets: _Packets) -> str | None:
    """Why the file ends before its header says. Where the container survives that, no decoder
    notices: the times of the packets are compared with the length in the header."""
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
        return None  # all packets carry the same time: the header has no clock to compare with
    # The length may be counted from the start of the clock or from the first frame.
    base = float(stream.time_base)
    end = max(packets.end, packets.end - packets.first) * base
    tolerance = TAIL_SECONDS + 1.5 / (_header_fps(stream) or 24.0)
    if declared - end > tolerance:
        return f"the file is cut short: it ends at {end:.2f} s of {declared:.2f} s"
    return None


def _declared_seconds(container: Any, stream: Any) -> float | None:
    """Length of the track by the header; the container's own only without sound, which may be
    longer."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return float(container.duration / 1e6)
    return None


def decoder_reason(exc: BaseException) -> str:
    """The telling part of a decoder's message, without clock, paths and numbers of its build: the
    same every time."""
    if isinstance(exc, VideoError):
        return exc.reason
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    text = lines[0] if lines else type(exc).__name__
    # That is of any video read before
    text = text.split("Check failed: ")[-1].partition("; last error log:")[0]
    # "[08:01:27] /project/src/video_reader.cc:285: "
    text = re.sub(r"^\[\d\d:\d\d:\d\d\] \S+?:\d+: *", "", text)
    text = re.sub(r"^\[[^\]]*[/.][^\]]*\] *", "", text)  # "[the file's path] "
    text = re.sub(r"^\[Errno -?\d+\] *", "", text)
    return re.sub(r":? *'[^']*'$|(?<=Error reading) .*", "", text)[:200]
