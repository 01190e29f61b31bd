"""The decoders of video files behind ``corrfractal.video.open_video``: decord and PyAV.

Decoders are third-party C++ that reads files from anywhere, so every exception they raise becomes a
``VideoError``. Known faults, and how they are handled here:

- decord returns frames of a wrong index if presentation times are broken (hidden VP9 frames, MPEG
  streams): a file whose times do not ascend is refused, and read by PyAV.
- decord may take the padding of narrow rows for further channels, depending on the processor: such
  files are read by PyAV.
- decord decodes ahead in its own thread while the caller works, and keeps all frames: above
  ``READ_AHEAD_MB`` it is made to drop them at the next key frame, where nothing is decoded twice.
- decord ignores damage that the codec conceals, and so would PyAV. FFmpeg's log is watched in both
  (``ffmpeg_log.py``), and PyAV also flags such frames. Everything from the first damaged frame on
  counts as bad.
- both disagree with players about edit lists, tracks, mirrored video and streams that do not begin
  with a key frame: ``container.py`` decides what is shown, and which decoder returns exactly that.
- neither notices that a file was cut short if the container survives it: ``container.py`` does, and
  reading the last frame raises.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import VideoError
from corrfractal.runtime.process import resident_mb

from .container import ContainerInfo, open_container
from .ffmpeg_log import capture_log, decoder_reason, decord_errors
from .packets import skip_undecodable
from .timestamps import F64, FOLDER_FPS, ascending_times, mean_fps

U8 = npt.NDArray[np.uint8]
Size = tuple[int, int]

# decord divides the bytes of a row by its width to get the number of channels, and rows are padded
# to 16, 32 or 64 pixels depending on the processor: 96 pixels have 3 channels or 4. Above 144
# pixels no padding adds up to a channel.
DECORD_MIN_SIDE = 160

# Times closer together than this count as equal.
MIN_GAP_SECONDS = 1e-4

# Growth of the process's resident memory, since reading began, that makes decord drop its frames.
READ_AHEAD_MB = 256.0


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: position in presentation order, from 0.
        seconds: presentation time; about 0 for the first frame.
        image: uint8 (H, W, 3) RGB.
    """

    index: int
    seconds: float
    image: U8


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What is known of a video when it is opened.

    Attributes:
        path: as given to ``open_video``.
        frames: number of frames; after damage was found, the number of good ones.
        fps: mean frames per second; ``FOLDER_FPS`` if there is only one frame.
        height, width: upright, in pixels; the requested size if the decoder scales.
        decoder: ``"decord"``, ``"pyav"`` or ``"images"``.
    """

    path: str
    frames: int
    fps: float
    height: int
    width: int
    decoder: str


class DecordVideo:
    """A ``Video`` read by decord, for files where decord shows what a player shows.

    Args:
        path: of the file.
        container: ``read_container(path)``.
        size: height and width to which FFmpeg scales while it converts to RGB: cheaper than
            resizing afterwards, and the frames that decord reads ahead are small.

    Raises:
        VideoError: (stage ``"open"``) decord cannot read it, or would show other frames.
    """

    def __init__(self, path: Path, container: ContainerInfo, size: Size | None = None) -> None:
        import decord

        if container.decord_fault is not None:
            raise VideoError(str(path), "open", f"decord misreads it: {container.decord_fault}")
        decord.logging.set_level(decord.logging.FATAL)
        # Smaller sizes would meet decord's fault with narrow rows: these frames are not scaled.
        scale = {}
        if size is not None and min(size) >= DECORD_MIN_SIDE:
            scale = {"height": size[0], "width": size[1]}

        try:
            self._errors = decord_errors()
            self._errors_before = self._errors.count
            self._reader = decord.VideoReader(str(container.path), num_threads=1, **scale)
            # decord learns the displayed size, rotation included, only from a decoded frame.
            self._first: U8 | None = self._reader[0].asnumpy()
            height, width = self._first.shape[:2]
            stamps = self._reader.get_frame_timestamp(np.arange(len(self._reader)))
        except Exception as exc:
            raise VideoError(str(path), "open", decoder_reason(exc)) from exc

        # Refuse files of which decord is known to return wrong frames.
        if len(self._reader) != container.packets:
            counts = f"{len(self._reader)} frames of {container.packets} packets"
            raise VideoError(str(path), "open", f"decord finds {counts}")
        if min(height, width) < DECORD_MIN_SIDE:
            reason = f"decord misreads sides under {DECORD_MIN_SIDE} pixels"
            raise VideoError(str(path), "open", reason)
        self._times = np.asarray(stamps, dtype=np.float64)[:, 0]
        self._times -= self._times[0]
        if not np.all(np.diff(self._times) > MIN_GAP_SECONDS):
            raise VideoError(str(path), "open", "its presentation times do not ascend")

        self._cut_short = container.cut_short
        self.info = VideoInfo(
            path=str(path),
            frames=len(self._reader),
            fps=mean_fps(self._times),  # headers of Matroska and FLV say 1000
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
        errors_before = self._errors.count
        keys = self._reader.get_key_indices()
        memory_before = resident_mb()

        # The reader is still positioned behind the first frame, which was decoded when the file was
        # opened: reuse it, together with the errors that it caused.
        first = self._first
        self._first = None
        try:
            if position == 0 and first is not None:
                errors_before = self._errors_before
            else:
                first = None
                self._reader.seek_accurate(position) if position else self._reader.seek(0)

            for index in wanted:
                key = keys[bisect_right(keys, index) - 1]
                if key > position and resident_mb() - memory_before > READ_AHEAD_MB:
                    self._reader.seek(key)
                    position = key
                if index > position:
                    self._reader.skip_frames(index - position)
                image = first if first is not None else self._reader.next().asnumpy()
                first = None
                position = index + 1
                if self._errors.count > errors_before:
                    reason = "the decoder reports damaged data"
                    raise VideoError(self.info.path, "decode", reason, index)
                yield Frame(index=index, seconds=float(self._times[index]), image=image)
        except VideoError:
            raise
        except Exception as exc:
            raise VideoError(self.info.path, "decode", decoder_reason(exc), index) from exc

        if self._cut_short is not None and index == self.info.frames - 1:
            raise VideoError(self.info.path, "decode", self._cut_short, self.info.frames)


class PyavVideo:
    """A ``Video`` read by PyAV.

    Opening decodes the file once, since files that reach PyAV often have no usable index. Frames
    from the first damaged one on are not counted; reading past the good ones raises ``VideoError``.
    All frames have the size of the first, as in players and ``ffmpeg`` if the coded size changes.

    Args:
        path: of the file.
        container: ``read_container(path)``.

    Raises:
        VideoError: (stage ``"open"``) no frame can be decoded.
    """

    def __init__(self, path: Path, container: ContainerInfo) -> None:
        self._container = container
        self._size: Size | None = None
        self._damage: str | None = None
        times: list[float | None] = []
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
        self._times = ascending_times(times, 1 / (container.fps or FOLDER_FPS))

        # The stored size becomes the upright one.
        height, width = self._size
        if container.orientation.transposed:
            height, width = width, height
        self.info = VideoInfo(
            path=str(path),
            frames=len(times),
            fps=mean_fps(self._times),
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
        end = max(wanted, default=-1) + 1
        count = min(end, self.info.frames)
        index = -1
        try:
            for index, (frame, _) in zip(range(count), _decode(self._container), strict=False):
                if index in wanted:
                    image = self._to_rgb(frame)
                    yield Frame(index=index, seconds=float(self._times[index]), image=image)
        except Exception as exc:
            raise VideoError(self.info.path, "decode", decoder_reason(exc), index + 1) from exc

        if self._damage is not None and end >= self.info.frames:
            raise VideoError(self.info.path, "decode", self._damage, self.info.frames)

    def _to_rgb(self, frame: Any) -> U8:
        """Upright uint8 (H, W, 3) RGB of a PyAV frame."""
        assert self._size is not None
        height, width = self._size
        # With bicubic scaling of the colour planes the pixels equal those of decord and ffmpeg.
        rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC")
        return self._container.orientation.apply(rgb.to_ndarray())


def _decode(info: ContainerInfo) -> Iterator[tuple[Any, str | None]]:
    """Frames decoded by PyAV, each with the damage found since the previous one, or None.

    Damage that is found only after the last frame comes with None instead of a frame.
    """
    with open_container(info.path) as container:
        stream = container.streams[info.track]
        stream.codec_context.thread_count = 1
        packets = skip_undecodable(
            container.demux(stream), late_key=info.late_key, drops_leading=info.drops_leading
        )
        frames = chain.from_iterable(packet.decode() for packet in packets)
        while True:
            with capture_log() as errors:
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
