"""Where the objects are at the start: masks, boxes and points given by the user -> object ids by
frame.

Boxes and points are drawn onto the mask of their frame, in the order given. Frames have the names
that results have: numbers from 0 in a video file (``40`` or ``00040``); file names without suffix
in a folder of frames, where a number also matches the one name with that value
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
from corrfractal.files.atomic import file_sha256

from .mask_images import MAX_OBJECTS, read_first_mask

U8 = npt.NDArray[np.uint8]

POINT_RADIUS = 0.02  # of the frame's shorter side
BOX_FORM = "[FRAME:]ID,X0,Y0,X1,Y1"
POINT_FORM = "[FRAME:]ID,X,Y[,RADIUS]"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """An object on a frame, as a box or as a disk, in pixels.

    A box covers ``x0 <= x < x1`` and ``y0 <= y < y1``. A disk has its centre at ``x0``, ``y0``, no
    ``x1`` and ``y1``, and a ``radius`` (None: 2 % of the frame's shorter side).
    """

    frame: int
    object_id: int
    x0: float
    y0: float
    x1: float | None = None
    y1: float | None = None
    radius: float | None = None

    def draw(self, mask: U8) -> None:
        """Set the pixels of the object in a mask, uint8 (H, W).

        Raises:
            MaskError: the shape covers no pixel of the frame.
        """
        # Open grids: a comparison broadcasts to (H, W) without two full coordinate maps.
        height, width = mask.shape
        y, x = np.ogrid[:height, :width]
        if self.x1 is not None and self.y1 is not None:
            inside = (x >= self.x0) & (x < self.x1) & (y >= self.y0) & (y < self.y1)
        else:
            radius = self.radius or max(1.0, POINT_RADIUS * min(height, width))
            inside = (x - self.x0) ** 2 + (y - self.y0) ** 2 <= radius**2
        if not inside.any():
            raise MaskError(
                f"object {self.object_id} at {self.x0:g},{self.y0:g} is outside the frame of "
                f"{width}x{height}"
            )
        mask[inside] = self.object_id


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Where objects are, by frame: mask files, and shapes drawn over them."""

    masks: dict[int, Path]
    shapes: tuple[Shape, ...] = ()
    folders: tuple[Path, ...] = ()
    """Mask folders that the user named: nothing may be written there."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All inputs: mask files and their folders."""
        return (*self.masks.values(), *self.folders)

    @property
    def frames(self) -> tuple[int, ...]:
        """Indices of the prompted frames, ascending."""
        return tuple(sorted({*self.masks, *(shape.frame for shape in self.shapes)}))

    def mask(self, frame: int, size: tuple[int, int]) -> U8:
        """Object ids of a prompted frame, uint8 (H, W).

        Raises:
            MaskError: a mask has another size, is empty, or is not a mask; a shape is outside.
        """
        path = self.masks.get(frame)
        mask = np.zeros(size, dtype=np.uint8) if path is None else read_first_mask(path, size)
        for shape in self.shapes:
            if shape.frame == frame:
                shape.draw(mask)
        return mask

    def digest(self) -> str:
        """SHA-256 of the contents of all masks, and of all shapes."""
        # Contents, not paths: a mask that was moved or copied is the same prompt.
        masks = [[frame, file_sha256(path)] for frame, path in sorted(self.masks.items())]
        return digest([masks, [_shape_values(shape) for shape in self.shapes]])

    def digests(self) -> dict[int, str]:
        """SHA-256 of the prompts of each prompted frame, ascending."""
        by_frame: dict[int, str] = {}
        for frame in self.frames:
            path = self.masks.get(frame)
            mask = None if path is None else file_sha256(path)
            shapes = [_shape_values(shape) for shape in self.shapes if shape.frame == frame]
            by_frame[frame] = digest([mask, shapes])
        return by_frame


def read_prompts(
    masks: Sequence[str] = (),
    boxes: Sequence[str] = (),
    points: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> Prompts:
    """Parse the prompts of the command line.

    Args:
        masks: ``PNG`` (of the first frame), ``FRAME:PNG``, or a folder of PNG files named by their
            frames.
        boxes: ``[FRAME:]ID,X0,Y0,X1,Y1`` in pixels.
        points: ``[FRAME:]ID,X,Y[,RADIUS]`` in pixels.
        names: names of the frames of a folder; None: frames are numbered from 0, as in a video
            file.

    Raises:
        CallError: no prompt is given, one cannot be parsed, or no frame has the name that it gives.
        NotFoundError: no such mask.
    """
    files: dict[int, Path] = {}
    folders: list[Path] = []
    for text in masks:
        if Path(text).is_dir():
            folders.append(Path(text))
            found = masks_by_frame(Path(text), names)
        else:
            found = [_mask_file(text, names)]
        for frame, path in found:
            if frame in files:
                # The message shows the frame as the user knows it.
                shown = frame if names is None else names[frame]
                raise CallError(f"two masks are given for frame {shown}: {files[frame]} and {path}")
            files[frame] = path

    shapes = [_box(text, names) for text in boxes]
    shapes += [_disk(text, names) for text in points]
    if not files and not shapes:
        raise CallError(
            "say where the objects are: --mask PNG, --box ID,X0,Y0,X1,Y1 or --point ID,X,Y"
        )
    return Prompts(masks=files, shapes=tuple(shapes), folders=tuple(folders))


def frame_index(text: str, names: Sequence[str] | None) -> int:
    """Index of the frame that a text names; see ``read_prompts`` for ``names``.

    An exact match takes precedence. Otherwise a number matches the one name with the same value,
    such as 7 and 00007.

    Raises:
        CallError: no frame has this name.
    """
    if names is None:
        if not text.isdecimal():
            raise CallError(
                f"no frame is called '{text}': the frames of a video file are numbered from 0"
            )
        # `PropagationJob.check` compares it with the length of the video, which is not open yet.
        return int(text)

    if text in names:
        return list(names).index(text)
    # FFmpeg numbers files from 00001: counting positions shifted every mask by one frame
    # (docs/decisions/0040), so a number is compared with names only.
    if text.isdecimal():
        same_value = [
            index for index, name in enumerate(names) if name.isdecimal() and int(name) == int(text)
        ]
        if len(same_value) == 1:
            return same_value[0]
    raise CallError(
        f"no frame is called '{text}': the frames have the names of their files, {names[0]} to "
        f"{names[-1]}"
    )


def masks_by_frame(folder: Path, names: Sequence[str] | None) -> list[tuple[int, Path]]:
    """(frame, file) of a folder of PNG masks named by their frames, ascending.

    Raises:
        NotFoundError: the folder holds no mask.
        CallError: the name of a mask matches no frame, or two match the same.
    """
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".png" and not path.name.startswith(".")
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


def _shape_values(shape: Shape) -> list[float | None]:
    corners = [shape.x0, shape.y0, shape.x1, shape.y1, shape.radius]
    return [shape.frame, shape.object_id, *corners]


def _mask_file(text: str, names: Sequence[str] | None) -> tuple[int, Path]:
    """Frame and file of ``PNG`` or ``FRAME:PNG``."""
    path = Path(text)
    index = 0
    frame, colon, _ = text.partition(":")
    if not path.exists() and colon and (frame.isdecimal() or names is not None):
        # Names of frames may contain colons: the longest name that matches is meant.
        matching = [name for name in names or () if text.startswith(f"{name}:")]
        frame = max(matching, key=len, default=frame)
        path = Path(text.removeprefix(f"{frame}:"))
        index = frame_index(frame, names)
    if not path.is_file():
        raise NotFoundError(f"no such mask: {path}")
    return index, path


def _box(text: str, names: Sequence[str] | None) -> Shape:
    frame, object_id, values = _parse_shape(text, BOX_FORM, (5,), names)
    x0, y0, x1, y1 = values
    if not (x0 < x1 and y0 < y1):
        raise CallError(f"the box '{text}' is empty: write {BOX_FORM} with X0 < X1 and Y0 < Y1")
    return Shape(frame=frame, object_id=object_id, x0=x0, y0=y0, x1=x1, y1=y1)


def _disk(text: str, names: Sequence[str] | None) -> Shape:
    frame, object_id, values = _parse_shape(text, POINT_FORM, (3, 4), names)
    x, y, *radius = values
    return Shape(frame=frame, object_id=object_id, x0=x, y0=y, radius=radius[0] if radius else None)


def _parse_shape(
    text: str, form: str, lengths: tuple[int, ...], names: Sequence[str] | None
) -> tuple[int, int, list[float]]:
    """Frame, object id and coordinates of ``[FRAME:]ID,...``; ``lengths``: how many numbers it may
    have."""
    # From the right: names of frames may contain colons, coordinates cannot.
    frame, colon, rest = text.rpartition(":")
    try:
        values = [float(value) for value in rest.split(",")]
    except ValueError:
        values = []
    if len(values) not in lengths or (names is None and colon and not frame.isdecimal()):
        raise CallError(f"cannot read '{text}': write {form}, in pixels of the frame")
    index = frame_index(frame, names) if colon else 0
    # Rejects fractions such as 1.5, which int() alone would truncate.
    object_id = int(values[0])
    if not 0 < values[0] == object_id <= MAX_OBJECTS:
        raise CallError(f"cannot read '{text}': an object id is an integer 1..{MAX_OBJECTS}")
    return index, object_id, values[1:]
