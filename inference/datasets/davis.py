"""DAVIS-2017 as it is published, 480p: JPEGImages/480p, Annotations/480p, ImageSets/2017/<split>.txt.

Source: Pont-Tuset et al., "The 2017 DAVIS challenge on video object segmentation", https://davischallenge.org.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from corrfractal.errors import NotFoundError, VideoError
from corrfractal.runtime import file_sha256
from inference.masks import read_mask
from inference.metrics.jf import VOID

U8 = npt.NDArray[np.uint8]

RESOLUTION = "480p"
OFFICIAL_SEQUENCES = {"val": 30, "train": 60}


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """One annotated sequence: file names only, pictures are read when asked for.

    Attributes:
        name: such as ``bmx-trees``.
        frames: JPEG files, in order.
        annotations: palette PNG files, one for each frame.
    """

    name: str
    frames: tuple[Path, ...]
    annotations: tuple[Path, ...]

    def frame(self, t: int) -> U8:
        """Frame t, uint8 (H, W, 3) RGB.

        Raises:
            VideoError: the file is not a readable image.
        """
        image = cv2.imread(str(self.frames[t]), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise VideoError(str(self.frames[t]), "decode", "not a readable image", t)
        return np.asarray(image, dtype=np.uint8)

    def annotation(self, t: int, size: tuple[int, ...] | None = None) -> U8:
        """Object ids of frame t, uint8 (H, W); void is background.

        Raises:
            MaskError: the file is not a readable mask, or not of the ``size`` (H, W) given.
        """
        mask = read_mask(self.annotations[t], size)
        return np.where(mask == VOID, np.uint8(0), mask)

    def fingerprint(self) -> str:
        """SHA-256 over names and sizes of all files: changes when the data set is replaced or completed."""
        facts = [f"{path.name} {path.stat().st_size}" for path in (*self.frames, *self.annotations)]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def sequence_names(root: Path, split: str = "val") -> tuple[str, ...]:
    """Names of the sequences of a split.

    Raises:
        NotFoundError: ``root`` is not the data set; names the folder or file that was expected.
    """
    for folder in (root / "JPEGImages" / RESOLUTION, root / "Annotations" / RESOLUTION):
        if not folder.is_dir():
            raise NotFoundError(
                f"no DAVIS-2017 data in {root}: the folder {folder} does not exist; --data is the folder that holds "
                "JPEGImages, Annotations and ImageSets"
            )
    listing = root / "ImageSets" / "2017" / f"{split}.txt"
    if not listing.is_file():
        raise NotFoundError(f"no DAVIS-2017 data in {root}: the list of sequences {listing} does not exist")
    names = tuple(listing.read_text(encoding="utf-8").split())
    if not names:
        raise NotFoundError(f"the list of sequences {listing} is empty")
    return names


def open_sequence(root: Path, name: str) -> Sequence:
    """Look up the files of a sequence and check that they are complete.

    Raises:
        NotFoundError: a folder is missing or empty, or a frame has no annotation; names it.
    """
    frames = _files(root / "JPEGImages" / RESOLUTION / name, ".jpg")
    folder = root / "Annotations" / RESOLUTION / name
    _files(folder, ".png")
    annotations = tuple(folder / f"{frame.stem}.png" for frame in frames)
    missing = [path for path in annotations if not path.is_file()]
    if missing:
        raise NotFoundError(f"sequence {name}: {len(missing)} annotations are missing, the first is {missing[0]}")
    if len(frames) < 3:
        raise NotFoundError(f"sequence {name} has {len(frames)} frames in {frames[0].parent}: at least 3 are needed")
    return Sequence(name=name, frames=frames, annotations=annotations)


def set_digest(root: Path, split: str = "val") -> str:
    """SHA-256 over the contents of all frames and annotations of a split: the identity of the evaluation set.

    Raises:
        NotFoundError: the data set is not there, or incomplete.
    """
    lines = []
    for name in sorted(sequence_names(root, split)):
        sequence = open_sequence(root, name)
        for path in (*sequence.frames, *sequence.annotations):
            lines.append(f"{name}/{path.name} {file_sha256(path)}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(folder: Path, suffix: str) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise NotFoundError(f"the folder {folder} does not exist: the data set is incomplete")
    files = tuple(sorted(path for path in folder.iterdir() if path.suffix == suffix))
    if not files:
        raise NotFoundError(f"the folder {folder} holds no {suffix} files: the data set is incomplete")
    return files
