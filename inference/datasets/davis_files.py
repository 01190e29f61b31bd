"""Layout of DAVIS at 480p, as published.

    JPEGImages/480p/<sequence>/00000.jpg
    Annotations/480p/<sequence>/00000.png     2017: ids 1, 2, ...; 2016: one object, 255
    ImageSets/2017/<split>.txt                2017: a name per line
    ImageSets/2016/<split>.txt                2016: a name per line, or
    ImageSets/480p/<split>.txt                2016: pairs of picture and annotation

Sources: Pont-Tuset et al., "The 2017 DAVIS challenge on video object segmentation"; Perazzi et al.,
"A benchmark dataset and evaluation methodology for video object segmentation" (CVPR 2016);
https://davischallenge.org.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import MaskError, NotFoundError
from corrfractal.files.atomic import file_sha256
from inference.metrics.jf import VOID
from inference.prompts.mask_images import read_mask

from .folders import files_in, fingerprint, read_lines, read_picture, require_folders

U8 = npt.NDArray[np.uint8]

RESOLUTION = "480p"
OFFICIAL_SEQUENCES = {
    "davis2017-val": 30,
    "davis2017-train": 60,
    "davis2016-val": 20,
    "davis2016-train": 30,
}
YEARS = ("2017", "2016")


@dataclass(frozen=True, kw_only=True)
class DavisSequence:
    """The files of one annotated sequence; pictures are read on demand.

    Attributes:
        name: such as ``bmx-trees``.
        frames: JPEG files, in order.
        annotations: PNG files, one per frame.
        year: in ``2016``, every value above 0 is object 1.
    """

    name: str
    frames: tuple[Path, ...]
    annotations: tuple[Path, ...]
    year: str = "2017"

    def frame(self, t: int) -> U8:
        """Frame t, uint8 (H, W, 3) RGB.

        Raises:
            VideoError: the file is not a readable image.
        """
        return read_picture(self.frames[t], t)

    def annotation(self, t: int, size: tuple[int, ...] | None = None) -> U8:
        """Object ids of frame t, uint8 (H, W); in 2017, void is background.

        Raises:
            MaskError: the file is not a readable mask, or is not of ``size`` (H, W).
        """
        return self.ids(read_mask(self.annotations[t], size))

    def ids(self, mask: U8) -> U8:
        """Object ids of a stored mask, uint8 (H, W), by the rule of the year."""
        if self.year == "2016":
            return (mask > 0).astype(np.uint8)
        return np.where(mask == VOID, np.uint8(0), mask)

    def objects(self) -> tuple[int, ...]:
        """The objects to track: 1 up to the highest id of the first annotation, as in the official
        evaluation.

        Raises:
            MaskError: the first annotation has no object.
        """
        highest = int(self.annotation(0).max())
        if highest == 0:
            raise MaskError(f"the first annotation {self.annotations[0]} holds no object")
        return tuple(range(1, highest + 1))

    def fingerprint(self) -> str:
        """The year, and SHA-256 over names and contents of all files."""
        return self.year + fingerprint((*self.frames, *self.annotations))


def find_year(root: Path, split: str = "val") -> str:
    """The year whose list exists, 2017 first; 2017 if none exists."""
    for year in YEARS:
        if any(path.is_file() for path in _lists(root, year, split)):
            return year
    return YEARS[0]


def sequence_names(root: Path, split: str = "val", year: str | None = None) -> tuple[str, ...]:
    """Names of the sequences of a split, in the order of its list.

    Raises:
        NotFoundError: ``root`` is not the data set; names the folder or file that was expected.
    """
    year = year or find_year(root, split)
    what = f"DAVIS-{year}"
    require_folders(what, root, root / "JPEGImages" / RESOLUTION, root / "Annotations" / RESOLUTION)
    lists = _lists(root, year, split)
    existing = [path for path in lists if path.is_file()]
    lines = read_lines(f"{what} {split}", existing[0] if existing else lists[0])

    # A line is a name, or a pair such as "/JPEGImages/480p/blackswan/00000.jpg
    # /Annotations/480p/blackswan/00000.png", of which there is one for every frame.
    names: dict[str, None] = {}
    for line in lines:
        entry = PurePosixPath(line.split()[0])
        names[entry.parent.name if entry.suffix == ".jpg" else str(entry)] = None
    return tuple(names)


def open_sequence(root: Path, name: str, year: str | None = None) -> DavisSequence:
    """Look up the files of a sequence.

    Raises:
        NotFoundError: a folder is missing or empty, or a frame has no annotation; names it.
    """
    frames = files_in(root / "JPEGImages" / RESOLUTION / name, ".jpg")
    folder = root / "Annotations" / RESOLUTION / name
    files_in(folder, ".png")
    annotations = tuple(folder / f"{frame.stem}.png" for frame in frames)
    missing = [path for path in annotations if not path.is_file()]
    if missing:
        raise NotFoundError(
            f"sequence {name}: {len(missing)} annotations are missing, the first is {missing[0]}"
        )
    if len(frames) < 3:
        raise NotFoundError(
            f"sequence {name} has {len(frames)} frames in {frames[0].parent}: at least 3 are needed"
        )
    return DavisSequence(
        name=name, frames=frames, annotations=annotations, year=year or find_year(root)
    )


def set_digest(root: Path, split: str = "val", year: str | None = None) -> str:
    """SHA-256 over the contents of all frames and annotations of a split: the identity of the
    evaluation set.

    Raises:
        NotFoundError: the data set does not exist or is incomplete.
    """
    lines = []
    for name in sorted(sequence_names(root, split, year)):
        sequence = open_sequence(root, name, year)
        for path in (*sequence.frames, *sequence.annotations):
            lines.append(f"{name}/{path.name} {file_sha256(path)}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _lists(root: Path, year: str, split: str) -> list[Path]:
    folders = {"2017": ["2017"], "2016": ["2016", RESOLUTION]}[year]
    return [root / "ImageSets" / folder / f"{split}.txt" for folder in folders]
