"""Video in and out: one reader for the pipeline and for inference. decord first, PyAV second,
folders of frames too.

Frames are RGB, upright (rotation metadata applied), in presentation order, with their presentation
time. A video is read in one sequential pass: random access costs several seeks a frame.
``open_video`` is the door to both decoders.

About 1 in 30 videos found in the wild opens in PyAV and not in decord, hence the second decoder.
The readers themselves are in ``decoders.py``.
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


class Video(Protocol):
    """An open video."""

    @property
    def info(self) -> VideoInfo:
        """What is known of it; after damage was met, ``frames`` counts the good ones."""
        ...

    def times(self) -> npt.NDArray[np.float64]:
        """Presentation time of every frame in seconds, float64 (frames,), ascending."""
        ...

    def names(self) -> Sequence[str]:
        """A unique name of every frame: the file's without suffix in a folder of frames, otherwise
        its index as five digits."""
        ...

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        """Decode frames in one pass: all of them, or the given ascending ``indices``.

        Raises:
            VideoError: a frame cannot be decoded; ``frame`` is its index. Frames already yielded
            are good.
        """
        ...


def open_video(
    path: str | Path, decoder: str = "auto", size: tuple[int, int] | None = None
) -> Video:
    """Open a video file or a folder of JPEG or PNG frames.

    Args:
        path: file or folder.
        decoder: ``"decord"``, ``"pyav"``, or ``"auto"``: decord where it shows exactly what a
            player shows (``container.py``), otherwise PyAV; PyAV also reads on where decord meets
            damage.
        size: height and width for callers that resize frames anyway: frames may come so, or smaller
            than they are. Damage then raises, and the caller reads again with ``"pyav"``, so that
            all frames are scaled alike.

    Raises:
        NotFoundError: no such file or folder, or a folder without images.
        VideoError: no decoder can open it (stage ``"open"``).
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
    container = read_container(path)
    if decoder == "pyav":
        return PyavVideo(path, container)
    try:
        video = DecordVideo(path, container, size)
    except VideoError:
        if decoder == "decord":
            raise
        return PyavVideo(path, container)
    return video if decoder == "decord" or size is not None else _Salvaged(path, container, video)


class _Salvaged:
    """A file read by decord, and from the first frame that decord reports as damaged on by PyAV.

    decord decodes ahead, and reports damage late in a file with one of the first frames. Unscaled
    frames of both decoders are equal, so nothing shows where one follows the other.
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
            second = self._second(exc)
            yield from second.frames([index for index in wanted if index >= (exc.frame or 0)])

    def _second(self, damage: VideoError) -> PyavVideo:
        """The same file by PyAV; raises ``damage`` again where that shows no more, or others."""
        if isinstance(self._video, PyavVideo):
            raise damage
        second = PyavVideo(self._path, self._container)
        both = min(len(second.times()), len(self.times()))
        agree = np.allclose(second.times()[:both], self.times()[:both], atol=1e-3)
        if not agree or both < (damage.frame or 0) or damage.frame == len(self.times()):
            raise damage
        self._video = second
        return second


def resize_area(image: U8, height: int, width: int) -> U8:
    """Resize uint8 (H, W, 3) to (height, width, 3): area averaging when shrinking, bilinear when
    growing."""
    if image.shape[:2] == (height, width):
        return image
    if image.shape[0] < height or image.shape[1] < width:
        return np.asarray(
            cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8
        )
    from corrfractal.labels.loops import (
        weighted_windows,  # late: what does not shrink does without the compiler
    )

    out = np.empty((height, width, 3), dtype=np.uint8)
    weighted_windows(
        np.ascontiguousarray(image),
        *_shares(image.shape[0], height),
        *_shares(image.shape[1], width),
        out,
    )
    return out


@functools.cache
def _shares(size: int, target: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Area averaging of a side: where each output pixel's window begins, and the share of each
    pixel in it."""
    ratio = size / target
    begin = np.arange(target) * ratio
    taps = min(math.ceil(ratio) + 1, size)
    first = np.minimum(begin.astype(np.int64), size - taps)
    pixels = first[:, None] + np.arange(taps)
    covered = np.minimum(pixels + 1, begin[:, None] + ratio) - np.maximum(pixels, begin[:, None])
    return first, (covered.clip(0) / ratio).astype(np.float32)


def write_video(path: str | Path, images: Iterable[U8], fps: float, codec: str = "libx264") -> int:
    """Encode uint8 (H, W, 3) RGB images, all of one size, as a video that plays in a browser
    (4:2:0, even size).

    Images of four channels are RGBA, for a codec that holds transparency: ``libvpx-vp9`` in
    ``.webm``.

    Odd sizes lose their last row or column, which 4:2:0 cannot hold. The file gets its name when it
    is whole.

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
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
                stream.height, stream.width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
                alpha = image.shape[2] == 4
                stream.pix_fmt = "yuva420p" if alpha else "yuv420p"
                if codec == "libvpx-vp9":
                    stream.options = {
                        "deadline": "realtime",
                        "cpu-used": "6",
                        "crf": "24",
                        "b": "0",
                    }
            even = np.ascontiguousarray(image[: stream.height, : stream.width])
            frame = av.VideoFrame.from_ndarray(even, format="rgba" if alpha else "rgb24")
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
            count += 1
        if stream is not None:
            container.mux(stream.encode(None))
    return count
