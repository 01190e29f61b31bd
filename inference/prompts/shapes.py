"""What a user gives to start a propagation: masks of some frames, boxes, points -> object ids by
frame.

A box or a point, each with an object id, is drawn onto the mask of its frame, the later ones over
the earlier.

Frames are named as the results name them: ``00040`` or ``40`` in a video file; in a folder of
frames by their files' names without suffix, where a number fits the name that is this number
(docs/decisions/0040).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corrfractal.common.config import digest
from corrfractal.common.errors import CallError, MaskError, NotFoundError
from corrfractal.common.files import file_sha256

from .mask_images import MAX_OBJECTS, read_first_mask

U8 = npt.NDArray[np.uint8]

POINT_RADIUS = 0.02  # of the frame's shorter side
BOX_FORM, POINT_FORM = "[FRAME:]ID,X0,Y0,X1,Y1", "[FRAME:]ID,X,Y[,RADIUS]"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A box or a disk on a frame: ``x1``, ``y1`` lie outside a box; a disk has a ``radius`` (None:
    2 % of the side)."""

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
            raise MaskError(
                f"nothing of object {self.object_id} at {at} lies on the frame of {width}x{height}"
            )
        mask[inside] = self.object_id


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Where objects are, by frame: files of masks, and shapes drawn over them."""

    masks: dict[int, Path]
    shapes: tuple[Shape, ...] = ()
    folders: tuple[Path, ...] = ()
    """Folders that the user named for masks: nothing may be written there."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is read."""
        return (*self.masks.values(), *self.folders)

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
        return digest(
            [[[frame, file_sha256(path)] for frame, path in sorted(self.masks.items())], shapes]
        )


def read_prompts(
    masks: Sequence[str] = (),
    boxes: Sequence[str] = (),
    points: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> Prompts:
    """Read what the command line gives.

    Args:
        masks: ``PNG`` (of the first frame), ``FRAME:PNG``, or a folder of PNG files named by their
            frames.
        boxes: ``[FRAME:]ID,X0,Y0,X1,Y1`` in pixels.
        points: ``[FRAME:]ID,X,Y[,RADIUS]`` in pixels.
        names: of the frames of a folder; None: frames are numbered from 0, as in a video file.

    Raises:
        CallError: nothing is given, a text cannot be read, or no frame has this name.
        NotFoundError: no such mask.
    """
    files: dict[int, Path] = {}
    folders = [Path(text) for text in masks if Path(text).is_dir()]
    for text in masks:
        found = (
            masks_by_frame(Path(text), names) if Path(text).is_dir() else [_mask_file(text, names)]
        )
        for frame, path in found:
            if frame in files:
                shown = frame if names is None else names[frame]
                raise CallError(f"two masks are given for frame {shown}: {files[frame]} and {path}")
            files[frame] = path
    shapes = [_shape(text, BOX_FORM, (5,), names) for text in boxes]
    shapes += [_shape(text, POINT_FORM, (3, 4), names) for text in points]
    if not files and not shapes:
        raise CallError(
            "say where the objects are: --mask PNG, --box ID,X0,Y0,X1,Y1 or --point ID,X,Y"
        )
    return Prompts(masks=files, shapes=tuple(shapes), folders=tuple(folders))


def frame_index(text: str, names: Sequence[str] | None) -> int:
    """Position of the frame that a text names; see ``read_prompts`` for ``names``.

    A name that fits exactly comes first; a number also fits the one name that is the same number,
    such as 7 and 00007.

    Raises:
        CallError: no frame has this name.
    """
    if names is None:
        if not text.isdecimal():
            raise CallError(
                f"no frame is called '{text}': the frames of a video file are numbered from 0"
            )
        return int(text)
    if text in names:
        return list(names).index(text)
    if text.isdecimal():
        same = [
            index for index, name in enumerate(names) if name.isdecimal() and int(name) == int(text)
        ]
        if len(same) == 1:
            return same[0]
    raise CallError(
        f"no frame is called '{text}': the frames are called {names[0]} to {names[-1]}, as their "
        "files"
    )


def masks_by_frame(folder: Path, names: Sequence[str] | None) -> list[tuple[int, Path]]:
    """(frame, file) of a folder of PNG masks named by their frames.

    Raises:
        NotFoundError: there is none.
        CallError: the name of a mask fits no frame, or two fit one.
    """
    paths = sorted(
        p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith(".")
    )
    if not paths:
        raise NotFoundError(
            f"the folder {folder} holds no masks named by their frame, such as 00000.png"
        )
    found: dict[int, Path] = {}
    for path in paths:
        try:
            frame = frame_index(path.stem, names)
        except CallError as exc:
            raise CallError(f"the mask {path} belongs to no frame: {exc}") from exc
        if frame in found:
            raise CallError(f"two masks are given for one frame: {found[frame]} and {path}")
        found[frame] = path
    return sorted(found.items())


def _mask_file(text: str, names: Sequence[str] | None) -> tuple[int, Path]:
    path = Path(text)
    frame, colon, _ = text.partition(":")
    if not path.exists() and colon and (frame.isdecimal() or names is not None):
        # A name may hold a colon itself: the longest one that is a frame's counts.
        known = [name for name in names or () if text.startswith(f"{name}:")]
        frame = max(known, key=len, default=frame)
        path = Path(text.removeprefix(f"{frame}:"))
        index = frame_index(frame, names)
    else:
        index = 0
    if not path.is_file():
        raise NotFoundError(f"no such mask: {path}")
    return index, path


def _shape(text: str, form: str, lengths: tuple[int, ...], names: Sequence[str] | None) -> Shape:
    frame, colon, rest = text.rpartition(":")
    try:
        values = [float(value) for value in rest.split(",")]
    except ValueError:
        values = []
    if len(values) not in lengths or (names is None and colon and not frame.isdecimal()):
        raise CallError(f"cannot read '{text}': write {form}, in pixels of the frame")
    at = frame_index(frame, names) if colon else 0
    object_id = int(values[0])
    if not 0 < values[0] == object_id <= MAX_OBJECTS:
        raise CallError(f"cannot read '{text}': an object id is a whole number 1..{MAX_OBJECTS}")
    if lengths == (5,):
        if not (values[1] < values[3] and values[2] < values[4]):
            raise CallError(f"the box '{text}' is empty: write {form} with X0 < X1 and Y0 < Y1")
        return Shape(
            frame=at, object_id=object_id, x0=values[1], y0=values[2], x1=values[3], y1=values[4]
        )
    return Shape(
        frame=at,
        object_id=object_id,
        x0=values[1],
        y0=values[2],
        radius=values[3] if values[3:] else None,
    )
