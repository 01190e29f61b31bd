"""The readers of video files behind ``corrfractal.video.open_video``: decord and PyAV.

Decoders are third-party C++ fed with files from anywhere, so whatever they raise becomes a
``VideoError``. What each hides, and what is done about it here:

- decord serves frames of a wrong index where presentation times are broken (hidden VP9 frames, MPEG
  streams): times that do not ascend make it refuse the file, and PyAV is next.
- decord takes the padding of narrow rows for further channels, or not, depending on the processor:
  PyAV reads them.
- decord decodes ahead in a thread of its own while the caller works, and keeps all of it: past
  ``READ_AHEAD_MB`` it is made to forget that at the next key frame, where no frame has to be
  decoded twice.
- decord ignores damage that the codec conceals, and so would PyAV. What FFmpeg reports of it on the
  way is listened to in both; PyAV flags such frames besides. Everything from the first one on is
  bad.
- both disagree with players about edit lists, tracks, mirrored video and streams that do not begin
  with a key frame: ``container.py`` decides what is shown, and which decoder gives exactly that.
- neither says that a file was cut short where the container survives it: ``container.py`` does, and
  reading its last frame raises.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import VideoError
from corrfractal.common.process import resident_mb

from .container import Container, complaints, decoder_reason, open_container, shown_packets

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
Size = tuple[int, int]

# A folder of frames carries no clock; DAVIS and YouTube-VOS were shot at about 24
FOLDER_FPS = 24.0

# decord divides the bytes of a row by its width to get the channels, and rows are padded to 16, 32
# or 64 pixels, as the processor likes it: 96 pixels have 3 channels or 4. Above 144 pixels no
# padding makes a whole channel.
DECORD_MIN_SIDE = 160

RESTART_GAPS = 4  # usual gaps by which a clock falls back that was started again

READ_AHEAD_MB = 256.0  # of a process, since the reading began

AV_LOG_ERROR = 16  # FFmpeg's levels descend: errors are at most this


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: position in presentation order, from 0.
        seconds: presentation time, the first frame's being about 0.
        image: uint8 (H, W, 3) RGB.
    """

    index: int
    seconds: float
    image: U8


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What is known of a video before its frames are decoded. ``frames`` is what the container's
    index promises; ``height`` and ``width`` are upright, or those that were asked for."""

    path: str
    frames: int
    fps: float
    height: int
    width: int
    decoder: str


class DecordVideo:
    """A file read by decord, where ``container.py`` finds that decord shows what a player shows.

    With ``size`` frames come with this height and width, scaled by FFmpeg while they are converted
    to RGB: cheaper than afterwards, and what decord has read ahead is small.

    Raises:
        VideoError: (stage ``"open"``) decord cannot read it, or would show other frames.
    """

    def __init__(self, path: Path, container: Container, size: Size | None = None) -> None:
        import decord

        if container.beyond_decord is not None:
            raise VideoError(str(path), "open", f"decord misreads it: {container.beyond_decord}")
        decord.logging.set_level(decord.logging.FATAL)
        scale = {}
        if size is not None and min(size) >= DECORD_MIN_SIDE:
            scale = {"height": size[0], "width": size[1]}
        try:
            self._complaints = _decord_complaints()
            self._heard = self._complaints.count
            self._reader = decord.VideoReader(str(container.path), num_threads=1, **scale)
            # decord learns the displayed size, rotation included, from the first frame only.
            self._first: U8 | None = self._reader[0].asnumpy()
            height, width = self._first.shape[:2]
            stamps = self._reader.get_frame_timestamp(np.arange(len(self._reader)))
        except Exception as exc:
            raise VideoError(str(path), "open", decoder_reason(exc)) from exc
        if len(self._reader) != container.packets:
            counts = f"{len(self._reader)} frames of {container.packets} packets"
            raise VideoError(str(path), "open", f"decord finds {counts}")
        if min(height, width) < DECORD_MIN_SIDE:
            reason = f"decord misreads sides under {DECORD_MIN_SIDE} pixels"
            raise VideoError(str(path), "open", reason)
        self._times = np.asarray(stamps, dtype=np.float64)[:, 0]
        self._times -= self._times[0]
        if not np.all(np.diff(self._times) > 1e-4):
            raise VideoError(str(path), "open", "its presentation times do not ascend")
        self._cut_short = container.cut_short
        self.info = VideoInfo(
            path=str(path),
            frames=len(self._reader),
            fps=_mean_fps(self._times),  # matroska and flv headers say 1000
            height=height,
            width=width,
            decoder="decord",
        )

    def times(self) -> F64:
        return self._times

    def names(self) -> list[str]:
        return numbered_names(self.info.frames)

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        wanted = range(self.info.frames) if indices is None else indices
        position = index = wanted[0] if wanted else 0
        heard = self._complaints.count
        keys = self._reader.get_key_indices()
        began = resident_mb()
        first, self._first = self._first, None
        try:
            if position == 0 and first is not None:
                heard = self._heard  # the reader stands behind this frame since the file was opened
            else:
                first = None
                self._reader.seek_accurate(position) if position else self._reader.seek(0)
            for index in wanted:
                key = keys[bisect_right(keys, index) - 1]
                if key > position and resident_mb() - began > READ_AHEAD_MB:
                    self._reader.seek(key)
                    position = key
                if index > position:
                    self._reader.skip_frames(index - position)
                image = self._reader.next().asnumpy() if first is None else first
                first = None
                position = index + 1
                if self._complaints.count > heard:
                    reason = "the decoder reports damaged data"
                    raise VideoError(self.info.path, "decode", reason, index)
                yield Frame(index=index, seconds=float(self._times[index]), image=image)
        except VideoError:
            raise
        except Exception as exc:
            raise VideoError(self.info.path, "decode", decoder_reason(exc), index) from exc
        if self._cut_short is not None and index == self.info.frames - 1:
            raise VideoError(self.info.path, "decode", self._cut_short, self.info.frames)


class _Complaints:
    """Counts the errors that FFmpeg reports while it conceals them, ``count`` so far in this
    process."""

    def __init__(self, libavutil: Path) -> None:
        self.count = 0
        library = ctypes.CDLL(str(libavutil))
        kind = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
        )
        self._callback = kind(self._hear)
        library.av_log_set_callback(self._callback)
        atexit.register(library.av_log_set_callback, library.av_log_default_callback)

    def _hear(self, context: object, level: int, message: bytes, values: object) -> None:
        self.count += level & 0xFF <= AV_LOG_ERROR


@functools.cache
def _decord_complaints() -> _Complaints:
    """Listens to the FFmpeg that came with decord; it is not PyAV's."""
    import decord

    package = Path(decord.__file__).parent
    found = [*package.parent.glob("decord2.libs/libavutil*"), *package.glob(".dylibs/libavutil*")]
    if not found:
        raise ImportError(
            f"{package} is no build of decord2 from a package index: its libavutil is not beside it"
        )
    return _Complaints(found[0])


class PyavVideo:
    """A file read by PyAV. Opening decodes it once: what reaches PyAV often has no usable index.

    Frames from the first damaged one on do not count as frames; reading past the good ones raises
    ``VideoError``. All frames have the size of the first, as players and ``ffmpeg`` show them where
    the coded size changes.
    """

    def __init__(self, path: Path, container: Container) -> None:
        self._container = container
        self._size: Size | None = None
        times: list[float | None] = []
        self._damage: str | None = None
        try:
            for frame, self._damage in _decode(container):
                if frame is None or self._damage is not None:
                    break
                if self._size is None:
                    self._size = (frame.height, frame.width)
                times.append(frame.time)
        except Exception as exc:
            if not times:
                raise VideoError(str(path), "open", decoder_reason(exc)) from exc
            self._damage = decoder_reason(exc)
        if self._size is None:
            reason = self._damage or "no frame can be decoded"
            raise VideoError(str(path), "open", reason)
        self._damage = self._damage or container.cut_short
        if container.clock is not None and len(container.clock) == len(times):
            times = list(container.clock)
        self._times = _ascending(times, 1 / (container.fps or FOLDER_FPS))
        height, width = self._size
        if container.orientation.transposed:
            height, width = width, height
        self.info = VideoInfo(
            path=str(path),
            frames=len(times),
            fps=_mean_fps(self._times),
            height=height,
            width=width,
            decoder="pyav",
        )

    def times(self) -> F64:
        return self._times

    def names(self) -> list[str]:
        return numbered_names(self.info.frames)

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        wanted = set(range(self.info.frames) if indices is None else indices)
        asked = max(wanted, default=-1) + 1
        count = min(asked, self.info.frames)
        index = -1
        try:
            for index, (frame, _) in zip(range(count), _decode(self._container), strict=False):
                if index in wanted:
                    image = self._picture(frame)
                    yield Frame(index=index, seconds=float(self._times[index]), image=image)
        except Exception as exc:
            raise VideoError(self.info.path, "decode", decoder_reason(exc), index + 1) from exc
        if self._damage is not None and asked >= self.info.frames:
            raise VideoError(self.info.path, "decode", self._damage, self.info.frames)

    def _picture(self, frame: Any) -> U8:
        """RGB array of a PyAV frame, upright. With bicubic scaling of the colour planes it is what
        decord and ``ffmpeg`` give, bit for bit."""
        assert self._size is not None
        rgb = frame.reformat(
            width=self._size[1], height=self._size[0], format="rgb24", interpolation="BICUBIC"
        )
        return self._container.orientation.apply(rgb.to_ndarray())


def _decode(facts: Container) -> Iterator[tuple[Any, str | None]]:
    """Frames by PyAV, each with what is wrong with it, or with what was read since the last one.

    Damage that shows only behind the last frame comes with None for a frame.
    """
    with open_container(facts.path) as container:
        stream = container.streams[facts.track]
        stream.codec_context.thread_count = 1
        packets = shown_packets(container.demux(stream), facts)
        frames = (frame for packet in packets for frame in packet.decode())
        while True:
            with complaints() as errors:
                frame = next(frames, None)
            damage = f"damaged data: {errors[0][2].strip()[:100]}" if errors else None
            if frame is None:
                if damage is not None:
                    yield None, damage
                return
            if damage is None and frame.is_corrupt:
                damage = "damaged data, concealed by the decoder"
            yield frame, damage


def numbered_names(count: int) -> list[str]:
    """Names of the frames of a video file: ``00000``, ``00001``, ..."""
    return [f"{index:05d}" for index in range(count)]


def _mean_fps(times: F64) -> float:
    """Frames per second by presentation times, ascending from 0."""
    return round((len(times) - 1) / float(times[-1]), 3) if len(times) > 1 else FOLDER_FPS


def _ascending(decoded: Sequence[float | None], gap: float) -> F64:
    """Presentation times in seconds from 0 on, strictly ascending, float64 (frames,).

    Args:
        decoded: as decoded; None where a frame has no time.
        gap: seconds between frames by the header, for a file without any times.

    A clock that falls back by several frames has been started again: what follows is moved behind
    what came before. Other times that do not ascend, or are missing, are spread evenly up to the
    next one that does, in steps of at most the usual gap.
    """
    times = np.array([np.nan if time is None else time for time in decoded], dtype=np.float64)
    gaps = np.diff(times[~np.isnan(times)])
    usual = float(np.median(gaps[gaps > 0])) if np.any(gaps > 0) else gap
    if np.isnan(times[0]):
        times[0] = 0.0
    times -= times[0]
    position = 1
    while position < len(times):
        before = times[position - 1]
        if times[position] > before:
            position += 1
            continue
        end = position
        if before - times[position] > RESTART_GAPS * usual:
            times[position:] += before + usual - times[position]
            continue
        while end < len(times) and not times[end] > before:
            end += 1
        step = usual
        if end < len(times):
            step = min(usual, float(times[end] - before) / (end - position + 1))
        times[position:end] = before + step * np.arange(1, end - position + 1)
        position = end
    return times
