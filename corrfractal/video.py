"""Video in and out: one reader for the pipeline and for inference. decord first, PyAV second, folders of frames too.

Frames are RGB, upright (rotation metadata applied), in presentation order, with their presentation time. A video is
read in one sequential pass: random access costs several seeks a frame. ``open_video`` is the door to both decoders.

About 1 in 30 videos found in the wild opens in PyAV and not in decord, hence the second decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from .errors import NotFoundError, VideoError

U8 = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
FOLDER_FPS = 24.0  # a folder of frames carries no clock; DAVIS and YouTube-VOS were shot at about 24


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
    """What is known of a video before its frames are decoded. ``frames`` is what the container's index promises."""

    path: str
    frames: int
    fps: float
    height: int
    width: int
    decoder: str


class Video(Protocol):
    """An open video."""

    info: VideoInfo

    def times(self) -> npt.NDArray[np.float64]:
        """Presentation time of every frame in seconds, float64 (frames,), ascending."""
        ...

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        """Decode frames in one pass: all of them, or the given ascending ``indices``.

        Raises:
            VideoError: a frame cannot be decoded; ``frame`` is its index. Frames already yielded are good.
        """
        ...


def open_video(path: str | Path, decoder: str = "auto") -> Video:
    """Open a video file or a folder of JPEG or PNG frames.

    Args:
        path: file or folder.
        decoder: ``"decord"``, ``"pyav"``, or ``"auto"``: decord, and PyAV where decord cannot open the file.

    Raises:
        NotFoundError: no such file or folder, or a folder without images.
        VideoError: no decoder can open it (stage ``"open"``).
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"no such video: {path}")
    if path.is_dir():
        return _FolderVideo(path)
    if path.stat().st_size == 0:
        raise VideoError(str(path), "open", "the file is empty")
    if decoder == "pyav":
        return _PyavVideo(path)
    try:
        return _DecordVideo(path)
    except VideoError:
        if decoder == "decord":
            raise
        return _PyavVideo(path)


def resize_area(image: U8, height: int, width: int) -> U8:
    """Resize uint8 (H, W, 3) to (height, width, 3): area averaging when shrinking, bilinear when growing."""
    if image.shape[:2] == (height, width):
        return image
    shrinking = image.shape[0] >= height and image.shape[1] >= width
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), dtype=np.uint8)


def write_video(path: str | Path, images: Iterable[U8], fps: float, codec: str = "libx264") -> int:
    """Encode uint8 (H, W, 3) RGB images, all of one size, as a video that plays in a browser (4:2:0, even size).

    Odd sizes lose their last row or column, which 4:2:0 cannot hold. The file gets its name when it is whole.

    Returns:
        The number of frames written.
    """
    import av

    path = Path(path)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    count = 0
    with av.open(str(temporary), "w") as container:
        stream: Any = None
        for image in images:
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
                stream.height, stream.width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
                stream.pix_fmt = "yuv420p"
            even = np.ascontiguousarray(image[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            count += 1
        if stream is not None:
            container.mux(stream.encode(None))
    temporary.replace(path)
    return count


class _DecordVideo:
    def __init__(self, path: Path) -> None:
        import decord

        decord.logging.set_level(decord.logging.FATAL)
        try:
            self._reader = decord.VideoReader(str(path), num_threads=1)
            # decord learns the displayed size, rotation included, from the first frame only.
            height, width = self._reader[0].shape[:2]
        except (RuntimeError, decord.DECORDError, IndexError) as exc:
            raise VideoError(str(path), "open", _first_line(exc)) from exc
        self.info = VideoInfo(
            path=str(path),
            frames=len(self._reader),
            fps=float(self._reader.get_avg_fps()),
            height=height,
            width=width,
            decoder="decord",
        )

    def times(self) -> npt.NDArray[np.float64]:
        stamps = self._reader.get_frame_timestamp(np.arange(self.info.frames))
        return np.asarray(stamps, dtype=np.float64)[:, 0].round(4)

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        import decord

        times = self.times()
        self._reader.seek(0)
        position = 0
        for index in range(self.info.frames) if indices is None else indices:
            try:
                if index > position:
                    self._reader.skip_frames(index - position)
                image = self._reader.next().asnumpy()
            except (RuntimeError, decord.DECORDError, IndexError, StopIteration) as exc:
                raise VideoError(self.info.path, "decode", _first_line(exc), index) from exc
            position = index + 1
            yield Frame(index=index, seconds=float(times[index]), image=image)


class _PyavVideo:
    def __init__(self, path: Path) -> None:
        import av

        self._path = path
        try:
            times, shape = self._scan(path)
        except (av.FFmpegError, UnicodeDecodeError, IndexError, ValueError) as exc:
            raise VideoError(str(path), "open", _first_line(exc)) from exc
        if not times:
            raise VideoError(str(path), "open", "no frame can be decoded")
        self._times = np.asarray(times, dtype=np.float64)
        span = float(self._times[-1] - self._times[0])
        self.info = VideoInfo(
            path=str(path),
            frames=len(times),
            fps=(len(times) - 1) / span if span > 0 else FOLDER_FPS,
            height=shape[0],
            width=shape[1],
            decoder="pyav",
        )

    @staticmethod
    def _scan(path: Path) -> tuple[list[float], tuple[int, int]]:
        """Decode once for the true presentation times: containers that reach PyAV often carry no usable index."""
        import av

        times: list[float] = []
        shape = (0, 0)
        with av.open(str(path), metadata_errors="replace") as container:
            try:
                for frame in container.decode(container.streams.video[0]):
                    times.append(float(frame.time or 0.0) if frame.pts is not None else len(times) / FOLDER_FPS)
                    shape = shape if shape != (0, 0) else _upright(frame).shape[:2]
            except av.FFmpegError:
                if not times:
                    raise
        return [t - times[0] for t in times], shape

    def times(self) -> npt.NDArray[np.float64]:
        return self._times

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        import av

        wanted = set(range(self.info.frames) if indices is None else indices)
        index = 0
        try:
            with av.open(str(self._path), metadata_errors="replace") as container:
                for index, frame in enumerate(container.decode(container.streams.video[0])):
                    if index in wanted:
                        yield Frame(index=index, seconds=float(self._times[index]), image=_upright(frame))
                    if index + 1 >= self.info.frames:
                        return
        except av.FFmpegError as exc:
            raise VideoError(self.info.path, "decode", _first_line(exc), index + 1) from exc


class _FolderVideo:
    def __init__(self, path: Path) -> None:
        self._files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not self._files:
            raise NotFoundError(f"the folder {path} holds no JPEG or PNG frames")
        height, width = self._read(0).shape[:2]
        self.info = VideoInfo(
            path=str(path),
            frames=len(self._files),
            fps=FOLDER_FPS,
            height=height,
            width=width,
            decoder="images",
        )

    def _read(self, index: int) -> U8:
        image = cv2.imread(str(self._files[index]), cv2.IMREAD_COLOR)
        if image is None:
            raise VideoError(str(self._files[index]), "decode", "not a readable image", index)
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def times(self) -> npt.NDArray[np.float64]:
        return np.arange(len(self._files)) / FOLDER_FPS

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        for index in range(len(self._files)) if indices is None else indices:
            yield Frame(index=index, seconds=index / FOLDER_FPS, image=self._read(index))


def _upright(frame: Any) -> U8:
    """RGB array of a PyAV frame with the stream's rotation applied, which PyAV leaves to the caller."""
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, k=round(getattr(frame, "rotation", 0) / 90) % 4))


def _first_line(exc: BaseException) -> str:
    """The telling part of a decoder's message, without its stack and build paths."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    text = lines[0] if lines else type(exc).__name__
    return text.split("Check failed: ")[-1][:200]
