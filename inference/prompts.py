"""What a user gives to start a propagation: masks of some frames, boxes, points -> object ids by frame.

A box or a point, each with an object id, is drawn onto the mask of its frame, the later ones over the earlier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corrfractal.config import digest
from corrfractal.errors import CallError, MaskError, NotFoundError
from corrfractal.runtime import file_sha256

from .masks import MAX_OBJECTS, read_first_mask

U8 = npt.NDArray[np.uint8]

POINT_RADIUS = 0.02  # of the frame's shorter side
BOX_FORM, POINT_FORM = "[FRAME:]ID,X0,Y0,X1,Y1", "[FRAME:]ID,X,Y[,RADIUS]"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A box or a disk on a frame: ``x1``, ``y1`` lie outside a box; a disk has a ``radius`` (None: 2 % of the side)."""

    frame: int
    object_id: int
    x0: float
    y0: float
    x1: float | None = None
    y1: float | None = None
    radius: float | None = None

    def draw(self, mask: U8) -> None:
        """Set the object's pixels.

        Raises:
            MaskError: nothing of it lies on the frame.
        """
        height, width = mask.shape
        y, x = np.ogrid[:height, :width]
        if self.x1 is not None and self.y1 is not None:
            inside = (x >= self.x0) & (x < self.x1) & (y >= self.y0) & (y < self.y1)
        else:
            radius = self.radius or max(1.0, POINT_RADIUS * min(height, width))
            inside = (x - self.x0) ** 2 + (y - self.y0) ** 2 <= radius**2
        if not inside.any():
            at = f"{self.x0:g},{self.y0:g}"
            raise MaskError(f"nothing of object {self.object_id} at {at} lies on the frame of {width}x{height}")
        mask[inside] = self.object_id


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Where objects are, by frame: files of masks, and shapes drawn over them."""

    masks: dict[int, Path]
    shapes: tuple[Shape, ...] = ()

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames that something is given for, ascending."""
        return tuple(sorted({*self.masks, *(shape.frame for shape in self.shapes)}))

    def mask(self, frame: int, size: tuple[int, int]) -> U8:
        """Object ids of a frame that something is given for, uint8 (H, W).

        Raises:
            MaskError: a mask is of another size, empty or no mask; a shape lies outside.
        """
        path = self.masks.get(frame)
        mask = np.zeros(size, dtype=np.uint8) if path is None else read_first_mask(path, size)
        for shape in self.shapes:
            if shape.frame == frame:
                shape.draw(mask)
        return mask

    def digest(self) -> str:
        """SHA-256 of what is given."""
        shapes = [[s.frame, s.object_id, s.x0, s.y0, s.x1, s.y1, s.radius] for s in self.shapes]
        return digest([[[frame, file_sha256(path)] for frame, path in sorted(self.masks.items())], shapes])


def read_prompts(masks: Sequence[str] = (), boxes: Sequence[str] = (), points: Sequence[str] = ()) -> Prompts:
    """Read what the command line gives.

    Args:
        masks: ``PNG`` (of frame 0), ``FRAME:PNG``, or a folder of PNG files whose names are frame numbers.
        boxes: ``[FRAME:]ID,X0,Y0,X1,Y1`` in pixels.
        points: ``[FRAME:]ID,X,Y[,RADIUS]`` in pixels.

    Raises:
        CallError: nothing is given, or a text cannot be read.
        NotFoundError: no such mask.
    """
    files: dict[int, Path] = {}
    for text in masks:
        for frame, path in _mask_files(text):
            if frame in files:
                raise CallError(f"two masks are given for frame {frame}: {files[frame]} and {path}")
            files[frame] = path
    shapes = [_shape(text, BOX_FORM, (5,)) for text in boxes] + [_shape(text, POINT_FORM, (3, 4)) for text in points]
    if not files and not shapes:
        raise CallError("say where the objects are: --mask PNG, --box ID,X0,Y0,X1,Y1 or --point ID,X,Y")
    return Prompts(masks=files, shapes=tuple(shapes))


def _mask_files(text: str) -> list[tuple[int, Path]]:
    path = Path(text)
    if path.is_dir():
        return numbered_masks(path)
    match = re.fullmatch(r"(\d+):(.+)", text)
    frame, path = (int(match[1]), Path(match[2])) if match and not path.exists() else (0, path)
    if not path.is_file():
        raise NotFoundError(f"no such mask: {path}")
    return [(frame, path)]


def numbered_masks(folder: Path) -> list[tuple[int, Path]]:
    """(frame, file) of a folder of masks whose names are frame numbers.

    Raises:
        NotFoundError: there is none.
    """
    found = [(int(path.stem), path) for path in sorted(folder.glob("*.png")) if path.stem.isdecimal()]
    if not found:
        raise NotFoundError(f"the folder {folder} holds no masks named by their frame, such as 00000.png")
    return found


def _shape(text: str, form: str, lengths: tuple[int, ...]) -> Shape:
    frame, _, rest = text.rpartition(":")
    try:
        values = [float(value) for value in rest.split(",")]
        at = int(frame or "0")
    except ValueError:
        values, at = [], 0
    if len(values) not in lengths:
        raise CallError(f"cannot read '{text}': write {form}, in pixels of the frame")
    object_id = int(values[0])
    if not (0 < values[0] == object_id <= MAX_OBJECTS) or at < 0:
        raise CallError(f"cannot read '{text}': an object id is a whole number 1..{MAX_OBJECTS}")
    if lengths == (5,):
        if not (values[1] < values[3] and values[2] < values[4]):
            raise CallError(f"the box '{text}' is empty: write {form} with X0 < X1 and Y0 < Y1")
        return Shape(frame=at, object_id=object_id, x0=values[1], y0=values[2], x1=values[3], y1=values[4])
    return Shape(frame=at, object_id=object_id, x0=values[1], y0=values[2], radius=values[3] if values[3:] else None)
