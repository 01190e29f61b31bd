"""Lists of videos: text files with one name per line, and CSV files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from corrfractal.common.text import decode_text, split_lines
from corrfractal.files import storage

from .entry_rules import LIST_SUFFIXES, suffix_of

HEADERS = ("path", "file", "filename", "video", "uri", "source")
"""Column names of a CSV header, lower case; the first match is the column to read."""


def is_list(path: Path) -> bool:
    """Whether a local path is a list of videos."""
    return path.suffix.lower() in LIST_SUFFIXES and path.is_file()


def read_list(location: str) -> list[tuple[int, str]]:
    """Line numbers (from 1) and names of a list.

    A text file gives one name per line. A CSV file gives the column that its header names
    (``HEADERS``), or the first column if there is no such header.

    Raises:
        OSError: the file cannot be read.
        ValueError, csv.Error: it is not text, or not CSV.
    """
    text = decode_text(storage.read(location))
    if suffix_of(location) != ".csv":
        return list(enumerate(split_lines(text), start=1))

    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    rows = [(reader.line_num, row) for row in reader if row]
    column = 0
    if rows:
        header = [cell.strip().lower() for cell in rows[0][1]]
        matching = [number for number, cell in enumerate(header) if cell in HEADERS]
        if matching:
            column = matching[0]
            del rows[0]
    return [(number, row[column] if column < len(row) else "") for number, row in rows]


def resolve_line(line: str, folder: str) -> str:
    """The location that a line of a list names; ``""`` for a blank line or a comment.

    Args:
        line: as read. Names with outer quotes or backslashes are accepted if they exist so.
        folder: the folder of the list, to which its names are relative.
    """
    name = line.strip()
    if not name or storage.is_uri(name):
        return name

    # Try the literal line first: a file name may begin or end with a space.
    spellings = [line, name]
    if name[0] in "\"'" and name[-1] == name[0]:
        spellings.append(name[1:-1])
    if "\\" in name:  # a path written on Windows
        spellings.append(name.replace("\\", "/"))
    candidates = [_absolute(spelling, folder) for spelling in spellings]
    existing = [location for location in candidates if storage.kind(location) is not None]
    if existing:
        return existing[0]

    # "#1.mp4" may be a file; a comment is only what names none.
    return "" if name.startswith("#") else candidates[1]


def _absolute(name: str, folder: str) -> str:
    if name.startswith("~/"):
        return str(Path(name).expanduser())
    return name if name.startswith("/") else storage.join(folder, name)
