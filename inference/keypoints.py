"""Key points as labels: points -> soft heat maps that propagate like masks, and back (method, section 8).

A point file is CSV with the columns ``id,x,y`` and, optionally, ``frame``; or JSON: a list of such objects, or of
``[x, y]``, or ``{"name": [x, y]}``. All points lie on one frame, in pixels.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.config import digest
from corrfractal.errors import CallError, NotFoundError
from corrfractal.runtime import write_text

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

    def digest(self) -> str:
        """SHA-256 of what is given."""
        return digest([self.frame, list(self.names), [list(point) for point in self.xy]])


def read_points(path: Path) -> Points:
    """Read a point file.

    Raises:
        NotFoundError: no such file.
        CallError: it cannot be read, or its points are on several frames or too many.
    """
    if not path.is_file():
        raise NotFoundError(f"no such file of points: {path}")
    try:
        rows = list(_rows(path))
        frames = {int(row.get("frame") or 0) for row in rows}
        names = tuple(str(row["id"]) for row in rows)
        xy = tuple((float(row["x"]), float(row["y"])) for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        form = "CSV with the columns id,x,y and optionally frame, or JSON {name: [x, y]}"
        raise CallError(f"cannot read the points of {path} ({exc}): write {form}") from exc
    if len(frames) != 1 or len(set(names)) != len(names) or len(names) > MAX_POINTS:
        raise CallError(f"{path} should hold 1..{MAX_POINTS} points of one frame, each with an id of its own")
    return Points(frame=frames.pop(), names=names, xy=xy)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() != ".json":
        yield from csv.DictReader(text.splitlines(), skipinitialspace=True)
        return
    values = json.loads(text)
    pairs = values.items() if isinstance(values, dict) else enumerate(values, start=1)
    for name, value in pairs:
        yield {"id": name, **value} if isinstance(value, dict) else {"id": name, "x": value[0], "y": value[1]}


def heat_maps(xy: Sequence[tuple[float, float]], size: tuple[int, int], sigma: float = SIGMA) -> F32:
    """Gaussians around points, float32 (K, H, W), 1 at the point; a point far outside leaves its map empty."""
    y, x = np.ogrid[: size[0], : size[1]]
    maps = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in xy]
    return np.stack(maps).astype(np.float32)


def locate(heat: F32) -> tuple[float, float, float]:
    """x, y and height of a heat map's peak, float32 (H, W): the mean of its highest pixels, weighted by their heat."""
    flat = heat.ravel()
    top = np.argpartition(flat, -TOP)[-TOP:] if flat.size > TOP else np.arange(flat.size)
    weights = np.maximum(flat[top], 1e-12).astype(np.float64)
    y, x = np.unravel_index(top, heat.shape)
    return (
        float((x * weights).sum() / weights.sum()),
        float((y * weights).sum() / weights.sum()),
        float(flat[top].max()),
    )


def write_points(path: Path, names: Sequence[str], tracks: dict[int, list[tuple[float, float, float]]]) -> None:
    """Write ``frame,id,x,y,confidence`` for every point of every frame, in one atomic step."""
    lines = ["frame,id,x,y,confidence"]
    for frame in sorted(tracks):
        lines += [
            f"{frame},{name},{x:.2f},{y:.2f},{p:.4f}" for name, (x, y, p) in zip(names, tracks[frame], strict=True)
        ]
    write_text(path, "\n".join(lines) + "\n")
