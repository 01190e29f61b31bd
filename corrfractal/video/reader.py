"""Read and write videos: one reader for all commands, over decord, PyAV and frame folders.

Frames are RGB, upright (rotation metadata applied), in presentation order, with their presentation
time. A video is read in one sequential pass, because random access costs several seeks per frame.

About 1 in 30 videos from the web opens in PyAV but not in decord, hence the second decoder. The
decoders are in ``decoders.py``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import NotFoundError, VideoError

from .container import ContainerInfo, read_container
from .decoders import DecordVideo, Frame, PyavVideo, VideoInfo
from .frame_folder import FolderVideo

__all__ = ["Frame", "Video", "VideoInfo", "open_video", "resize_area", "write_video"]

U8 = npt.NDArray[np.uint8]

# Both decoders must agree on presentation times to be used for one file.
TIME_TOLERANCE = 1e-3

# Fast encoding for VP9; "b": 0 selects constant quality.
VP9_OPTIONS = {"deadline": "realtime", "cpu-used": "6", "crf": "24", "b": "0"}


class Video(Protocol):
    """An open video."""

    @property
    def info(self) -> VideoInfo:
        """Properties of the video; after damage was found, ``frames`` counts the good ones."""
        ...

    def times(self) -> npt.NDArray[np.float64]:
        """Presentation time of every frame in seconds, float64 (frames,), ascending."""
        ...

    def names(self) -> Sequence[str]:
        """A unique name per frame: the file name without suffix in a frame folder, otherwise the
        index as five digits."""
        ...

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        """Decode frames in one pass.

        Args:
            indices: ascending; default: all frames.

        Raises:
            VideoError: a frame cannot be decoded; ``frame`` is its index. Frames that were already
                yielded are good.
        """
        ...


def open_video(
    path: str | Path, decoder: str = "auto", size: tuple[int, int] | None = None
) -> Video:
    """Open a video file or a frame folder.

    Args:
        path: file or folder.
        decoder: ``"decord"``, ``"pyav"``, or ``"auto"``: decord where it shows exactly what a
            player shows (``container.py``), otherwise PyAV. With ``"auto"``, PyAV also takes over
            where decord finds damage.
        size: height and width, for callers that resize frames anyway: frames may have this size, or
            any between it and their own. PyAV does not take over then, since frames of the two
            would be scaled differently: on ``VideoError`` the caller reads again with ``"pyav"``.

    Raises:
        NotFoundError: no such file or folder, or a folder without images.
        VideoError: (stage ``"open"``) no decoder can open it.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"no such video: {path}")
    if path.is_dir():
        return FolderVideo(path, size)
    if not path.is_file():
        raise VideoError(str(path), "open", "it is not a regular file")
    if path.stat().st_size == 0:
        raise VideoError(str(path), "open", "the file is empty")

    # The container decides what is shown; the decoder only has to return that.
    container = read_container(path)
    if decoder == "pyav":
        return PyavVideo(path, container)
    try:
        video = DecordVideo(path, container, size)
    except VideoError:
        if decoder == "decord":
            raise
        return PyavVideo(path, container)
    if decoder == "decord" or size is not None:
        return video
    return _FallbackVideo(path, container, video)


class _FallbackVideo:
    """A ``Video`` read by decord, and by PyAV from the first frame that decord reports as damaged.

    decord decodes ahead, and so reports damage late in a file with one of the first frames.
    Unscaled frames of both decoders are bit-identical, so the transition is invisible.
    """

    def __init__(self, path: Path, container: ContainerInfo, video: DecordVideo) -> None:
        self._path = path
        self._container = container
        self._video: DecordVideo | PyavVideo = video

    @property
    def info(self) -> VideoInfo:
        return self._video.info

    def times(self) -> npt.NDArray[np.float64]:
        return self._video.times()

    def names(self) -> list[str]:
        return self._video.names()

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        wanted = range(self.info.frames) if indices is None else indices
        try:
            yield from self._video.frames(wanted)
        except VideoError as exc:
            fallback = self._fall_back(exc)
            first = exc.frame or 0
            yield from fallback.frames([index for index in wanted if index >= first])

    def _fall_back(self, damage: VideoError) -> PyavVideo:
        """Switch to PyAV; raise ``damage`` if PyAV decodes no more frames, or other ones."""
        if isinstance(self._video, PyavVideo):
            raise damage

        # If the times agree, frame k of PyAV is frame k of decord, which was already yielded.
        fallback = PyavVideo(self._path, self._container)
        times = self.times()
        common = min(len(fallback.times()), len(times))
        agree = np.allclose(fallback.times()[:common], times[:common], atol=TIME_TOLERANCE)
        if not agree or common < (damage.frame or 0) or damage.frame == len(times):
            raise damage
        self._video = fallback
        return fallback


def resize_area(image: U8, height: int, width: int) -> U8:
    """Resize an image: area averaging when shrinking, bilinear when growing.

    Args:
        image: uint8 (H, W, 3).
        height, width: of the result, in pixels.

    Returns:
        uint8 (height, width, 3); ``image`` itself if it has this size.
    """
    if image.shape[:2] == (height, width):
        return image
    if image.shape[0] < height or image.shape[1] < width:
        grown = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(grown, dtype=np.uint8)

    # Imported late: it loads the numba compiler, which callers that never shrink can do without.
    from corrfractal.labels.loops import weighted_windows

    result = np.empty((height, width, 3), dtype=np.uint8)
    rows = _area_weights(image.shape[0], height)
    columns = _area_weights(image.shape[1], width)
    weighted_windows(np.ascontiguousarray(image), *rows, *columns, result)
    return result


@functools.cache
def _area_weights(size: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Area averaging of one side from ``size`` to ``target`` pixels.

    Returns:
        The first input pixel of each output pixel, int64 (target,), and the weights of the input
        pixels from there on, float32 (target, taps).
    """
    ratio = size / target
    begin = np.arange(target) * ratio
    taps = min(math.ceil(ratio) + 1, size)
    first = np.minimum(begin.astype(np.int64), size - taps)
    pixels = first[:, None] + np.arange(taps)
    covered = np.minimum(pixels + 1, begin[:, None] + ratio) - np.maximum(pixels, begin[:, None])
    return first, (covered.clip(0) / ratio).astype(np.float32)


def write_video(path: str | Path, images: Iterable[U8], fps: float, codec: str = "libx264") -> int:
    """Encode images as a video that plays in a browser (4:2:0).

    The file is written under a temporary name and renamed when complete.

    Args:
        path: the suffix selects the container.
        images: uint8 (H, W, 3) RGB, all of one size; or (H, W, 4) RGBA for a codec that stores
            transparency (``libvpx-vp9`` in ``.webm``). 4:2:0 needs even sizes, so the last row or
            column of an odd size is dropped.
        fps: frames per second.
        codec: name of an FFmpeg encoder.

    Returns:
        The number of frames written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        count = _encode(temporary, images, fps, codec)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _encode(path: Path, images: Iterable[U8], fps: float, codec: str) -> int:
    import av

    count = 0
    with av.open(str(path), "w") as container:
        stream: Any = None
        for image in images:
            # The first image decides the size and the pixel format.
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
                stream.height = image.shape[0] // 2 * 2
                stream.width = image.shape[1] // 2 * 2
                alpha = image.shape[2] == 4
                stream.pix_fmt = "yuva420p" if alpha else "yuv420p"
                if codec == "libvpx-vp9":
                    stream.options = dict(VP9_OPTIONS)
            even = np.ascontiguousarray(image[: stream.height, : stream.width])
            frame = av.VideoFrame.from_ndarray(even, format="rgba" if alpha else "rgb24")
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
            count += 1

        # Flush the frames that the encoder still holds.
        if stream is not None:
            container.mux(stream.encode(None))
    return count
