"""The readers of video files behind ``corrfractal.video.open_video``: decord and PyAV.

Decoders are third-party C++ fed with files from anywhere, so whatever they raise becomes a ``VideoError``. What each
hides, and what is done about it here:

- decord serves frames of a wrong index where presentation times are broken (hidden VP9 frames, MPEG streams): times
  that do not ascend make it refuse the file, and PyAV is next.
- decord takes the padding of narrow rows for further channels, or not, depending on the processor: PyAV reads them.
- decord decodes ahead in a thread of its own while the caller works, and keeps all of it: past ``READ_AHEAD_MB`` it is
  made to forget that at the next key frame, where no frame has to be decoded twice.
- decord ignores damage that the codec conceals, and so would PyAV. What FFmpeg reports of it on the way is listened to
  in both; PyAV flags such frames besides. Everything from the first one on is bad.
- neither says that a file was cut short where the container survives it: ``pipeline.truncation`` does.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import VideoError
from .runtime import resident_mb

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
Size = tuple[int, int]

FOLDER_FPS = 24.0  # a folder of frames carries no clock; DAVIS and YouTube-VOS were shot at about 24

# decord divides the bytes of a row by its width to get the channels, and rows are padded to 16, 32 or 64 pixels, as the
# processor likes it: 96 pixels have 3 channels or 4. Above 144 pixels no padding makes a whole channel.
DECORD_MIN_SIDE = 160

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
    """What is known of a video before its frames are decoded. ``frames`` is what the container's index promises;
    ``height`` and ``width`` are upright, or those that were asked for; ``declared`` is the length in seconds by the
    header, where it says one."""

    path: str
    frames: int
    fps: float
    height: int
    width: int
    decoder: str
    declared: float | None = None


class DecordVideo:
    """A file read by decord. Raises ``VideoError`` (stage ``"open"``) if decord cannot, or would guess.

    With ``size`` frames come with this height and width, scaled by FFmpeg while they are converted to RGB: cheaper than
    afterwards, and what decord has read ahead is small.
    """

    def __init__(self, path: Path, size: Size | None = None, declared: float | None = None) -> None:
        import decord

        decord.logging.set_level(decord.logging.FATAL)
        scale = {} if size is None or min(size) < DECORD_MIN_SIDE else {"height": size[0], "width": size[1]}
        try:
            self._complaints = _decord_complaints()
            self._heard = self._complaints.count
            self._reader = decord.VideoReader(str(path), num_threads=1, **scale)
            # decord learns the displayed size, rotation included, from the first frame only.
            self._first: U8 | None = self._reader[0].asnumpy()
            height, width = self._first.shape[:2]
            stamps = self._reader.get_frame_timestamp(np.arange(len(self._reader)))
        except Exception as exc:
            raise VideoError(str(path), "open", _reason(exc)) from exc
        if min(height, width) < DECORD_MIN_SIDE:
            raise VideoError(str(path), "open", f"decord misreads sides under {DECORD_MIN_SIDE} pixels")
        self._times = np.asarray(stamps, dtype=np.float64)[:, 0]
        self._times -= self._times[0]
        if not np.all(np.diff(self._times) > 1e-4):
            raise VideoError(str(path), "open", "its presentation times do not ascend")
        self.info = VideoInfo(
            path=str(path),
            frames=len(self._reader),
            fps=_mean_fps(self._times),  # matroska and flv headers say 1000
            height=height,
            width=width,
            decoder="decord",
            declared=declared,
        )

    def times(self) -> F64:
        return self._times

    def names(self) -> list[str]:
        return numbered_names(self.info.frames)

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        wanted = range(self.info.frames) if indices is None else indices
        position = index = wanted[0] if wanted else 0
        heard, keys, began = self._complaints.count, self._reader.get_key_indices(), resident_mb()
        first, self._first = self._first, None
        try:
            if position == 0 and first is not None:  # the reader stands behind it since the file was opened
                heard = self._heard
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
                position, first = index + 1, None
                if self._complaints.count > heard:
                    raise VideoError(self.info.path, "decode", "the decoder reports damaged data", index)
                yield Frame(index=index, seconds=float(self._times[index]), image=image)
        except VideoError:
            raise
        except Exception as exc:
            raise VideoError(self.info.path, "decode", _reason(exc), index) from exc


class _Complaints:
    """Counts the errors that FFmpeg reports while it conceals them, ``count`` so far in this process."""

    def __init__(self, libavutil: Path) -> None:
        self.count = 0
        library = ctypes.CDLL(str(libavutil))
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
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
        raise ImportError(f"{package} is no build of decord2 from a package index: its libavutil is not beside it")
    return _Complaints(found[0])


def declared_seconds(path: Path) -> float | None:
    """Length of the video stream by the header; the container's own counts only without sound, which may be longer.

    Also the first look at a file: PyAV says in an exception that it is no video at all; decord prints lines of its own
    to standard error as well, past every log level.

    Raises:
        VideoError: (stage ``"open"``) it is none.
    """
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if container.streams.video:
                stream = container.streams.video[0]
                if stream.duration and stream.time_base:
                    return float(stream.duration * stream.time_base)
                return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None
    except Exception as exc:
        raise VideoError(str(path), "open", _reason(exc)) from exc
    raise VideoError(str(path), "open", "it has no video stream")


class PyavVideo:
    """A file read by PyAV. Opening decodes it once: what reaches PyAV often carries no usable index.

    Frames from the first damaged one on do not count as frames; reading past the good ones raises ``VideoError``.
    """

    def __init__(self, path: Path, declared: float | None = None) -> None:
        self._path = path
        times: list[float] = []
        height = width = 0
        self._damage: str | None = None
        try:
            for frame, self._damage in _decode(path):
                if self._damage is not None:
                    break
                if not times:
                    height, width = _upright(frame).shape[:2]
                times.append(len(times) / FOLDER_FPS if frame.time is None else float(frame.time))
        except Exception as exc:
            if not times:
                raise VideoError(str(path), "open", _reason(exc)) from exc
            self._damage = _reason(exc)
        if not times:
            raise VideoError(str(path), "open", self._damage or "no frame can be decoded")
        self._times = _ascending(np.asarray(times) - times[0])
        self.info = VideoInfo(
            path=str(path),
            frames=len(times),
            fps=_mean_fps(self._times),
            height=height,
            width=width,
            decoder="pyav",
            declared=declared,
        )

    def times(self) -> F64:
        return self._times

    def names(self) -> list[str]:
        return numbered_names(self.info.frames)

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        wanted = set(range(self.info.frames) if indices is None else indices)
        try:
            for index, (frame, _) in zip(range(max(wanted, default=-1) + 1), _decode(self._path), strict=False):
                if index in wanted:
                    yield Frame(index=index, seconds=float(self._times[index]), image=_upright(frame))
        except Exception as exc:
            raise VideoError(self.info.path, "decode", _reason(exc), index + 1) from exc
        if self._damage is not None and self.info.frames - 1 in wanted:
            raise VideoError(self.info.path, "decode", self._damage, self.info.frames)


def _decode(path: Path) -> Iterator[tuple[Any, str | None]]:
    """Frames by PyAV, each with what is wrong with it, or with what was read since the one before."""
    import av
    import av.logging

    with av.open(str(path), metadata_errors="replace") as container:
        if not container.streams.video:
            raise VideoError(str(path), "open", "it has no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = container.decode(stream)
        while True:
            av.logging.set_level(av.logging.ERROR)
            av.logging.set_skip_repeated(False)  # else a file that is read twice is sound the second time
            try:
                with av.logging.Capture(local=True) as complaints:
                    frame = next(frames, None)
            finally:
                av.logging.set_level(None)
            if frame is None:
                return
            if complaints:
                yield frame, f"damaged data: {complaints[0][2].strip()[:100]}"
            else:
                yield frame, "damaged data, concealed by the decoder" if frame.is_corrupt else None


def numbered_names(count: int) -> list[str]:
    """Names of the frames of a video file: ``00000``, ``00001``, ..."""
    return [f"{index:05d}" for index in range(count)]


def _mean_fps(times: F64) -> float:
    """Frames per second by presentation times, ascending from 0."""
    return round((len(times) - 1) / float(times[-1]), 3) if len(times) > 1 else FOLDER_FPS


def _ascending(times: F64) -> F64:
    """Presentation times where each one that does not exceed its predecessor is replaced by one a usual gap later."""
    gaps = np.diff(times)
    usual = float(np.median(gaps[gaps > 0])) if np.any(gaps > 0) else 1 / FOLDER_FPS
    mended = times.copy()
    for i in range(1, len(mended)):
        if not mended[i] > mended[i - 1]:
            mended[i] = mended[i - 1] + usual
    return mended


def _upright(frame: Any) -> U8:
    """RGB array of a PyAV frame with the stream's rotation applied, which PyAV leaves to the caller."""
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, k=round(getattr(frame, "rotation", 0) / 90) % 4))


def _reason(exc: BaseException) -> str:
    """The telling part of a decoder's message, without clock, paths and numbers of its build: the same every time."""
    if isinstance(exc, VideoError):
        return exc.reason
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    text = lines[0] if lines else type(exc).__name__
    text = text.split("Check failed: ")[-1].partition("; last error log:")[0]  # that is of any video read before
    text = re.sub(r"^\[\d\d:\d\d:\d\d\] \S+?:\d+: *", "", text)  # "[08:01:27] /project/src/video_reader.cc:285: "
    text = re.sub(r"^\[[^\]]*[/.][^\]]*\] *", "", text)  # "[the file's path] "
    text = re.sub(r"^\[Errno -?\d+\] *", "", text)
    return re.sub(r":? *'[^']*'$|(?<=Error reading) .*", "", text)[:200]
