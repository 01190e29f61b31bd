"""What the layouts of all data sets share: required folders, lists, numbered files, readable
pictures, a fingerprint.

Every error names the one folder or file that was expected.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import NotFoundError, VideoError
from corrfractal.common.text import decode_text, split_lines
from corrfractal.files.atomic import file_sha256
from corrfractal.video.images import ImageError, read_image

U8 = npt.NDArray[np.uint8]


def require_folders(what: str, root: Path, *folders: Path) -> None:
    """Check that the folders of a data set exist.

    Args:
        what: name of the data set, for the error.
        root: its folder.
        folders: below ``root``.

    Raises:
        NotFoundError: names the first that does not exist.
    """
    for folder in folders:
        if folder.is_dir():
            continue
        expected = dict.fromkeys(path.relative_to(root).parts[0] for path in folders)
        raise NotFoundError(
            f"no {what} data in {root}: the folder {folder} does not exist; "
            f"--data is the folder that holds {', '.join(expected)}"
        )


def read_lines(what: str, path: Path) -> tuple[str, ...]:
    """Lines of a list, stripped, without blank ones.

    Raises:
        NotFoundError: the list is missing, empty or not text.
    """
    if not path.is_file():
        raise NotFoundError(f"the {what} list {path} does not exist: the data set is incomplete")
    try:
        text = decode_text(path.read_bytes())
    except ValueError as exc:
        raise NotFoundError(f"the {what} list {path} is damaged: it is not text") from exc
    lines = tuple(line.strip() for line in split_lines(text) if line.strip())
    if not lines:
        raise NotFoundError(f"the {what} list {path} is empty")
    return lines


def files_in(folder: Path, *suffixes: str) -> tuple[Path, ...]:
    """Files of a folder with one of the suffixes, sorted with digits as numbers.

    Raises:
        NotFoundError: the folder is missing or has no such file; names it.
    """
    if not folder.is_dir():
        raise NotFoundError(f"the folder {folder} does not exist: the data set is incomplete")
    # Hidden files are skipped: on foreign file systems macOS stores a ._NAME.jpg for each NAME.jpg.
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
    """SHA-256 over names and contents of files, in this order."""
    facts = [f"{path.name} {file_sha256(path)}" for path in paths]
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key with digits as numbers: 2.jpg before 10.jpg."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
