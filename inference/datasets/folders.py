"""What all data sets on disk have in common: folders that must be there, pictures that must be
readable, a fingerprint.

Every complaint names the one folder or file that was expected.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import NotFoundError, VideoError
from corrfractal.common.files import file_sha256
from corrfractal.common.text import decode_text, split_lines
from corrfractal.video.images import ImageError, read_image

U8 = npt.NDArray[np.uint8]


def require_folders(what: str, root: Path, *folders: Path) -> None:
    """Check that the folders of a data set exist.

    Raises:
        NotFoundError: names the first that does not.
    """
    for folder in folders:
        if not folder.is_dir():
            expected = ", ".join(dict.fromkeys(f.relative_to(root).parts[0] for f in folders))
            raise NotFoundError(
                f"no {what} data in {root}: the folder {folder} does not exist; "
                f"--data is the folder that holds {expected}"
            )


def read_lines(what: str, path: Path) -> tuple[str, ...]:
    """The lines of a list that are not blank.

    Raises:
        NotFoundError: the list is missing or empty.
    """
    if not path.is_file():
        raise NotFoundError(f"the {what} list {path} does not exist: the data set is incomplete")
    try:
        lines = tuple(
            line.strip() for line in split_lines(decode_text(path.read_bytes())) if line.strip()
        )
    except ValueError as exc:
        raise NotFoundError(f"the {what} list {path} is damaged: it is not text") from exc
    if not lines:
        raise NotFoundError(f"the {what} list {path} is empty")
    return lines


def files_in(folder: Path, *suffixes: str) -> tuple[Path, ...]:
    """Files of a folder with one of the suffixes, in the order of the numbers in their names.

    Raises:
        NotFoundError: the folder is missing or holds none; names it.
    """
    if not folder.is_dir():
        raise NotFoundError(f"the folder {folder} does not exist: the data set is incomplete")
    # Hidden files are no frames: macOS puts a ._NAME.jpg beside each NAME.jpg on foreign disks.
    found = (
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )
    files = tuple(sorted(found, key=_natural))
    if not files:
        raise NotFoundError(
            f"the folder {folder} holds no {' or '.join(suffixes)} files: the data set is "
            "incomplete"
        )
    return files


def read_picture(path: Path, t: int) -> U8:
    """Frame t of a sequence, uint8 (H, W, 3) RGB.

    Raises:
        VideoError: the file is not a readable image.
    """
    try:
        return read_image(path)
    except ImageError as exc:
        raise VideoError(str(path), "decode", exc.reason, t) from exc


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over names and contents of files: changes when a data set is replaced, corrected or
    completed."""
    facts = [f"{path.name} {file_sha256(path)}" for path in paths]
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()


def _natural(path: Path) -> list[tuple[int, str]]:
    """Digits count as numbers: 2.jpg comes before 10.jpg."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
