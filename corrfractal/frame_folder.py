"""Folders of frames, read as a video is: YouTube-VOS, OxUvA and DAVIS come so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from .decoders import F64, FOLDER_FPS, U8, Frame, Size, VideoInfo
from .errors import NotFoundError, VideoError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}


class FolderVideo:
    """A folder of JPEG or PNG frames, in natural order of their names (frame 2 before frame 10).

    With ``size`` JPEGs are read at 1/2, 1/4 or 1/8 of theirs where that is not smaller: the decoder skips what would
    be averaged away.
    """

    def __init__(self, path: Path, size: Size | None = None) -> None:
        self._files = frame_files(path)
        if not self._files:
            raise NotFoundError(f"the folder {path} holds no JPEG or PNG frames")
        self._mode = cv2.IMREAD_COLOR_RGB
        height, width = self._read(0).shape[:2]
        if size is not None and all(file.suffix.lower() != ".png" for file in self._files):
            ratio = min(height // size[0], width // size[1])
            self._mode |= next((flag for by, flag in REDUCED.items() if by <= ratio), 0)
        self.info = VideoInfo(
            path=str(path),
            frames=len(self._files),
            fps=FOLDER_FPS,
            height=height,
            width=width,
            decoder="images",
        )

    def times(self) -> F64:
        return np.arange(len(self._files)) / FOLDER_FPS

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        for index in range(len(self._files)) if indices is None else indices:
            yield Frame(index=index, seconds=index / FOLDER_FPS, image=self._read(index))

    def _read(self, index: int) -> U8:
        image = cv2.imread(str(self._files[index]), self._mode)
        if image is None:
            raise VideoError(str(self._files[index]), "decode", "not a readable image", index)
        return np.asarray(image, dtype=np.uint8)


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder of frames, in natural order of their names."""
    images = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    return sorted(images, key=lambda p: [int(s) if s.isdecimal() else s for s in re.split(r"([0-9]+)", p.name)])
