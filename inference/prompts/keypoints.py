"""Key points as labels: points -> soft heat maps that propagate like masks, and back (method,
section 8).

A point file is CSV with the columns ``id,x,y`` and, optionally, ``frame``; or JSON: a list of such
objects, or of ``[x, y]``, or ``{"name": [x, y]}``. All points lie on one frame, in pixels; without
``frame``, on the first.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.common.config import digest
from corrfractal.common.errors import CallError, NotFoundError

from .shapes import frame_index

F32 = npt.NDArray[np.float32]

SIGMA = 4.0  # pixels at full resolution
TOP = 5  # pixels whose weighted mean is the point
MAX_POINTS = 255


@dataclass(frozen=True, kw_only=True)
class Points:
    """Named points of one frame."""

    frame: int
    names: tuple[str, ...]
    xy: tuple[tuple[float, float], ...]
    files: tuple[Path, ...] = ()
    """Where they were read from."""

    def digest(self) -> str:
        """SHA-256 of what is given."""
        return digest([self.frame, list(self.names), [list(point) for point in self.xy]])


def read_points(path: Path, frames: Sequence[str] | None = None) -> Points:
    """Read a point file.

    Args:
        path: the file.
        frames: names of the frames of a folder, as for ``read_prompts``.

    Raises:
        NotFoundError: no such file.
        CallError: it cannot be read, its points are on several frames or too many, or no frame has
        this name.
    """
    if not path.is_file():
        raise NotFoundError(f"no such file of points: {path}")
    try:
        rows = list(_rows(path))
        on = {str("" if row.get("frame") is None else row["frame"]).strip() for row in rows}
        names = tuple(str(row["id"]) for row in rows)
        xy = tuple((float(row["x"]), float(row["y"])) for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        form = "CSV with the columns id,x,y and optionally frame, or JSON {name: [x, y]}"
        raise CallError(f"cannot read the points of {path} ({exc}): write {form}") from exc
    if len(on) != 1 or len(set(names)) != len(names) or len(names) > MAX_POINTS:
        raise CallError(
            f"{path} should hold 1..{MAX_POINTS} points of one frame, each with an id of its own"
        )
    frame = on.pop()
    return Points(
        frame=frame_index(frame, frames) if frame else 0, names=names, xy=xy, files=(path,)
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() != ".json":
        yield from csv.DictReader(text.splitlines(), skipinitialspace=True)
        return
    values = json.loads(text)
    pairs = values.items() if isinstance(values, dict) else enumerate(values, start=1)
    for name, value in pairs:
        yield (
            {"id": name, **value}
            if isinstance(value, dict)
            else {"id": name, "x": value[0], "y": value[1]}
        )


def heat_maps(
    xy: Sequence[tuple[float, float]], size: tuple[int, int], sigma: float = SIGMA
) -> F32:
    """Gaussians around points, float32 (K, H, W), 1 at the point; a point far outside leaves its
    map empty."""
    y, x = np.ogrid[: size[0], : size[1]]
    maps = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in xy]
    return np.stack(maps).astype(np.float32)


def locate(heat: F32) -> tuple[float, float, float]:
    """x, y and height of a heat map's peak, float32 (H, W): the mean of its highest pixels,
    weighted by their heat."""
    flat = heat.ravel()
    top = np.argpartition(flat, -TOP)[-TOP:] if flat.size > TOP else np.arange(flat.size)
    weights = np.maximum(flat[top], 1e-12).astype(np.float64)
    y, x = np.unravel_index(top, heat.shape)
    return (
        float((x * weights).sum() / weights.sum()),
        float((y * weights).sum() / weights.sum()),
        float(flat[top].max()),
    )


def points_table(
    names: Sequence[str], tracks: dict[int, list[tuple[float, float, float]]], frames: Sequence[str]
) -> bytes:
    """``frame,id,x,y,confidence`` for every point of every frame, as CSV.

    Args:
        names: of the points.
        tracks: x, y and confidence of the points, by frame.
        frames: names of the frames. Where they are the numbers from 0 on, the table has plain
            numbers.
    """
    if all(name.isdecimal() and int(name) == index for index, name in enumerate(frames)):
        frames = [str(index) for index in range(len(frames))]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["frame", "id", "x", "y", "confidence"])
    for frame in sorted(tracks):
        for name, (x, y, p) in zip(names, tracks[frame], strict=True):
            writer.writerow([frames[frame], name, f"{x:.2f}", f"{y:.2f}", f"{p:.4f}"])
    return table.getvalue().encode("utf-8", "surrogateescape")
