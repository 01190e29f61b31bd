"""Frame folders, read like videos: DAVIS, YouTube-VOS and OxUvA are distributed in this form."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from corrfractal.common.errors import NotFoundError, VideoError

from .decoders import U8, Frame, Size, VideoInfo
from .images import IMAGE_SUFFIXES, ImageError, read_image
from .timestamps import F64, FOLDER_FPS

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")

# Fractions of its size at which libjpeg can decode an image, smallest result first.
JPEG_FRACTIONS = (8, 4, 2)


class FolderVideo:
    """A ``Video`` of image files, in natural order of their names (frame 2 before frame 10).

    Args:
        path: of the folder.
        size: height and width of interest. JPEGs are then decoded at 1/2, 1/4 or 1/8 of their size
            if the result is not smaller than this, which skips work that resizing would undo.

    Raises:
        NotFoundError: the folder contains no images.
        VideoError: (stage ``"open"``) two images have the same name but for the suffix; (stage
            ``"decode"``) the first image is damaged.
    """

    def __init__(self, path: Path, size: Size | None = None) -> None:
        self._files = frame_files(path)
        if not self._files:
            raise NotFoundError(f"the folder {path} holds no JPEG or PNG frames")
        _refuse_twins(path, self._files)

        self._reduce = 1
        height, width = self._read(0).shape[:2]
        if size is not None and all(file.suffix.lower() in JPEG_SUFFIXES for file in self._files):
            ratio = min(height // size[0], width // size[1])
            self._reduce = next((by for by in JPEG_FRACTIONS if by <= ratio), 1)
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

    def names(self) -> list[str]:
        return [file.stem for file in self._files]

    def frames(self, indices: Sequence[int] | None = None) -> Iterator[Frame]:
        for index in range(len(self._files)) if indices is None else indices:
            yield Frame(index=index, seconds=index / FOLDER_FPS, image=self._read(index))

    def _read(self, index: int) -> U8:
        file = self._files[index]
        try:
            return read_image(file, self._reduce)
        except ImageError as exc:
            # Reasons are stored as UTF-8; a file name need not be.
            name = os.fsencode(file.name).decode("utf-8", "backslashreplace")
            raise VideoError(str(file.parent), "decode", f"{name}: {exc.reason}", index) from exc


def frame_files(folder: Path) -> list[Path]:
    """The images of a frame folder, in natural order of their names.

    Raises:
        OSError: the folder cannot be read.
    """
    images = [path for path in folder.iterdir() if _is_frame(path)]
    return sorted(images, key=lambda path: natural_order(path.name))


def natural_order(name: str) -> list[str | int]:
    """Sort key of a file name that compares digits as numbers."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts


def _is_frame(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and not path.is_dir()


def _refuse_twins(folder: Path, files: Sequence[Path]) -> None:
    """Raise if two images share a stem: a frame and its mask, or one frame stored twice."""
    seen: dict[str, Path] = {}
    for file in files:
        twin = seen.setdefault(file.stem, file)
        if twin is not file:
            raise VideoError(
                str(folder),
                "open",
                f"{twin.name} and {file.name} are two images of one frame; keep one of each name",
            )
