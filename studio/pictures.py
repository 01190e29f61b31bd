"""Frames and masks as the page shows them: any frame at any time, at a bounded size."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from corrfractal.common.errors import VideoError
from corrfractal.video import Frame, Video, open_video
from inference.propagation.outputs import dotted

U8 = npt.NDArray[np.uint8]

MAX_SIDE = 1280
"""Pixels; of the longer side of a picture on the page."""
SKIP = 48
"""Frames that are decoded and dropped rather than sought: a seek decodes from a key frame."""


class FramePictures:
    """JPEGs of the frames of a video, for requests in any order.

    Args:
        path: video file or folder of frames.
        size: (H, W) of its frames.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self._path = path
        self.size = picture_size(size)
        self._lock = threading.Lock()
        self._video: Video | None = None
        self._frames: Iterator[Frame] = iter(())
        self._next: int | None = None

    def jpeg(self, index: int) -> bytes:
        """A frame as JPEG.

        Raises:
            VideoError: it cannot be decoded.
        """
        with self._lock:
            image = self._read(index)
        height, width = self.size
        if image.shape[:2] != self.size:
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
        _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
        return encoded.tobytes()

    def _read(self, index: int) -> U8:
        try:
            return self._read_from(self._video or self._open("auto"), index)
        except VideoError:
            # As the other commands do: PyAV reads on where decord finds damage.
            self._next = None
            return self._read_from(self._open("pyav"), index)

    def _open(self, decoder: str) -> Video:
        self._video = open_video(self._path, decoder, self.size)
        return self._video

    def _read_from(self, video: Video, index: int) -> U8:
        if self._next is None or not 0 <= index - self._next <= SKIP:
            self._frames = video.frames(range(index, video.info.frames))
            self._next = index
        for frame in self._frames:
            self._next = frame.index + 1
            if frame.index == index:
                return frame.image
        self._next = None
        raise VideoError(str(self._path), "decode", "there is no such frame", index)


def picture_size(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of a picture of a frame of this (H, W)."""
    shrink = max(1.0, max(size) / MAX_SIDE)
    return max(1, round(size[0] / shrink)), max(1, round(size[1] / shrink))


def mask_png(mask: U8, colors: Mapping[int, str], size: tuple[int, int]) -> bytes:
    """A mask as a PNG with transparent background.

    Args:
        mask: uint8 (H, W) object ids.
        colors: ``#rrggbb`` of the objects.
        size: (H, W) of the picture.
    """
    small = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    palette = np.full((256, 3), 255, dtype=np.uint8)
    for object_id, color in colors.items():
        palette[object_id] = ImageColor.getrgb(color)
    picture = Image.fromarray(small)
    picture.putpalette(palette.tobytes())
    return _png(picture, transparency=0)


def points_png(
    points: Sequence[tuple[float, float] | None], frame: tuple[int, int], size: tuple[int, int]
) -> bytes:
    """Key points (x, y) of a frame of (H, W) as a PNG of another (H, W), transparent elsewhere."""
    scale = size[0] / frame[0]
    scaled = [None if point is None else (point[0] * scale, point[1] * scale) for point in points]
    drawn = dotted(np.zeros((*size, 3), dtype=np.uint8), scaled)
    alpha = drawn.max(axis=2)  # the rims are white, and smooth outward
    return _png(Image.fromarray(np.dstack([drawn, alpha])))


def _png(image: Image.Image, **options: int) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", compress_level=1, **options)
    return encoded.getvalue()
