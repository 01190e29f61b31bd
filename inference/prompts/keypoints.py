"""Key points: the files that give them, and the table of their positions on every frame.

``heat_maps.py`` turns points into labels that propagate like masks, and back (method, section 8).

A point file is CSV with the columns ``id,x,y`` and, optionally, ``frame``; or JSON: a list of such
objects, a list of ``[x, y]``, or ``{"name": [x, y]}``. Coordinates are pixels. All points are on
one frame: ``frame``, or the first.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrfractal.common.config import digest
from corrfractal.common.errors import CallError, NotFoundError

from .shapes import frame_index

MAX_POINTS = 255
FORMATS = "CSV with the columns id,x,y and optionally frame, or JSON {name: [x, y]}"


@dataclass(frozen=True, kw_only=True)
class Points:
    """Named key points of one frame, in pixels."""

    frame: int
    names: tuple[str, ...]
    xy: tuple[tuple[float, float], ...]
    files: tuple[Path, ...] = ()
    """The files that they were read from: inputs that no output may replace."""

    def digest(self) -> str:
        """SHA-256 of frame, names and positions."""
        return digest([self.frame, list(self.names), [list(point) for point in self.xy]])


def read_points(path: Path, frames: Sequence[str] | None = None) -> Points:
    """Read a point file.

    Args:
        path: the file.
        frames: names of the frames of a folder, as for ``read_prompts``.

    Raises:
        NotFoundError: no such file.
        CallError: it cannot be read, its points are on several frames or too many, or no frame has
            the name that it gives.
    """
    if not path.is_file():
        raise NotFoundError(f"no such file of points: {path}")
    try:
        rows = list(_rows(path))
        names = tuple(str(row["id"]) for row in rows)
        xy = tuple((float(row["x"]), float(row["y"])) for row in rows)
        named_frames = {_frame_text(row) for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CallError(f"cannot read the points of {path} ({exc}): write {FORMATS}") from exc

    # Output rows are identified by these ids, and the tracker carries one channel per point.
    if len(named_frames) != 1 or len(set(names)) != len(names) or len(names) > MAX_POINTS:
        raise CallError(f"{path} must hold 1..{MAX_POINTS} points of one frame, with unique ids")
    frame = named_frames.pop()
    return Points(
        frame=frame_index(frame, frames) if frame else 0, names=names, xy=xy, files=(path,)
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """``id``, ``x``, ``y`` and perhaps ``frame`` of each point; values are not checked."""
    # Spreadsheets write a byte order mark before the first column name.
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() != ".json":
        yield from csv.DictReader(text.splitlines(), skipinitialspace=True)
        return

    document = json.loads(text)
    named = document.items() if isinstance(document, dict) else enumerate(document, start=1)
    for name, value in named:
        if isinstance(value, dict):
            yield {"id": name, **value}
        else:
            yield {"id": name, "x": value[0], "y": value[1]}


def _frame_text(row: dict[str, Any]) -> str:
    """Name of the frame of a point; empty: the first."""
    frame = row.get("frame")
    return "" if frame is None else str(frame).strip()


def points_table(
    names: Sequence[str], tracks: dict[int, list[tuple[float, float, float]]], frames: Sequence[str]
) -> bytes:
    """CSV ``frame,id,x,y,confidence`` with a row for every point of every frame.

    Args:
        names: of the points.
        tracks: x, y and confidence of the points, by frame.
        frames: names of the frames; if they are the numbers from 0, they are written without
            leading zeros.
    """
    if all(name.isdecimal() and int(name) == index for index, name in enumerate(frames)):
        frames = [str(index) for index in range(len(frames))]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["frame", "id", "x", "y", "confidence"])
    for frame in sorted(tracks):
        for name, (x, y, confidence) in zip(names, tracks[frame], strict=True):
            writer.writerow([frames[frame], name, f"{x:.2f}", f"{y:.2f}", f"{confidence:.4f}"])
    # File names that are no UTF-8 keep their bytes.
    return table.getvalue().encode("utf-8", "surrogateescape")
