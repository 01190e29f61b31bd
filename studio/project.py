"""One video with its marks and results, as files in a folder.

    studio.json              objects and key points: names, colours, positions
    marks/00000.png          the objects of a marked frame, palette PNG
    MODEL/masks/             what `corrfractal propagate --mask marks --out MODEL/masks` writes
    MODEL/points/            the same for key points
    MODEL/overlay.mp4, ...   made when they are downloaded

A frame that has marks shows them; any other shows the mask that was propagated to it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import CallError
from corrfractal.files.atomic import write_bytes, write_text
from corrfractal.files.output_guard import refuse_overlap
from corrfractal.files.written_files import Written
from corrfractal.video import open_video
from inference.config import InferenceConfig
from inference.load import ModelSource
from inference.prompts.keypoints import Points
from inference.prompts.mask_images import bright_palette, encode_mask, read_mask
from inference.prompts.shapes import Prompts, Shape
from inference.propagation.outputs import Outputs, PointTrack, mask_file, write_outputs
from inference.propagation.passes import Direction
from inference.propagation.video_job import (
    POINTS,
    RESULT,
    WRITTEN,
    PropagationJob,
    first_changed_prompt,
)
from inference.protocols import Model

from .pictures import FramePictures
from .runner import Work

U8 = npt.NDArray[np.uint8]
Tool = Literal["brush", "eraser", "polygon", "box", "point"]
Kind = Literal["objects", "points"]

NOTE = "studio.json"
MAX_ITEMS = 31
"""Objects of a video. Masks with larger ids may be mistaken for grey drawings."""
MAX_UNDO = 30


@dataclass(kw_only=True)
class Item:
    """An object or a key point: number from 1, name, ``#rrggbb``."""

    id: int
    name: str
    color: str


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """What was drawn: a path of (x, y) in pixels of the frame, and the brush's radius."""

    tool: Tool
    path: tuple[tuple[float, float], ...]
    radius: float = 1.0

    def draw(self, mask: U8, object_id: int) -> None:
        """Set the pixels of the object in a mask, uint8 (H, W); the eraser sets 0.

        Raises:
            MaskError: a box or a point is outside the frame.
        """
        if self.tool in ("box", "point"):
            x0, y0 = np.min(self.path, axis=0).tolist()
            x1, y1 = np.max(self.path, axis=0).tolist() if self.tool == "box" else (None, None)
            Shape(frame=0, object_id=object_id, x0=x0, y0=y0, x1=x1, y1=y1).draw(mask)
            return
        pixels = np.rint(self.path).astype(np.int32)
        if self.tool == "polygon":
            cv2.fillPoly(mask, [pixels], object_id)
            return
        value = 0 if self.tool == "eraser" else object_id
        radius = max(1, round(self.radius))
        cv2.circle(mask, pixels[0].tolist(), radius, value, -1)
        # A line of this width with round ends
        cv2.polylines(mask, [pixels], False, value, 2 * radius + 1)
        cv2.circle(mask, pixels[-1].tolist(), radius, value, -1)


@dataclass(kw_only=True)
class Progress:
    """Frames with a propagated mask: ``first`` up to but without ``end``, and the digests of the
    prompts that they follow from."""

    first: int
    end: int
    prompts: Mapping[str, str]


@dataclass
class Project:
    """A video on the page.

    Args:
        video: file or folder of frames.
        folder: where its marks and results are; made at the first mark.

    Raises:
        CallError: ``studio.json`` cannot be read.
        NotFoundError, VideoError: the video cannot be opened.
    """

    video: Path
    folder: Path
    items: dict[Kind, list[Item]] = field(default_factory=lambda: {"objects": [], "points": []})
    point_frame: int | None = None
    positions: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Key points that are placed on ``point_frame``, by number."""
    version: int = 0
    """Counts changes of what the page shows."""
    before_change: Callable[[], None] = lambda: None
    """Called before marks change: a propagation that reads them must end."""

    def __post_init__(self) -> None:
        opened = open_video(self.video)
        self.info = opened.info
        self.names = opened.names()
        self.size = (self.info.height, self.info.width)
        self.pictures = FramePictures(self.video, self.size)
        self.progress: dict[str, Progress] = {}
        self.tracks: dict[str, dict[int, PointTrack]] = {}
        self._lock = threading.RLock()
        self._undone: dict[int, tuple[list[bytes | None], list[bytes | None]]] = {}
        self._load()
        # Hashes of marks, which are compared at every look at the page
        digests = self.prompts().digests()
        self._digests = {str(frame): digest for frame, digest in digests.items()}

    # Marks

    @cached_property
    def marks_folder(self) -> Path:
        return self.folder / "marks"

    def marked_frames(self) -> list[int]:
        """Frames with marks, ascending."""
        return sorted(int(frame) for frame in self._digests)

    def marks(self, frame: int) -> U8 | None:
        """The marks of a frame, uint8 (H, W) object ids."""
        path = self._marks_file(frame)
        return read_mask(path, self.size) if path.is_file() else None

    def draw(self, frame: int, object_id: int, stroke: Stroke, model: str) -> None:
        """Change the marks of a frame. Its first change starts from the mask that ``model``
        propagated to it: a correction.

        Raises:
            MaskError: the stroke is outside the frame.
        """
        with self._lock:
            mask = self.shown(frame, model)
            mask = np.zeros(self.size, dtype=np.uint8) if mask is None else mask.copy()
            stroke.draw(mask, object_id)
            self._change(frame, encode_mask(mask) if mask.any() else None)

    def clear(self, frame: int) -> None:
        """Remove the marks of a frame."""
        with self._lock:
            self._change(frame, None)

    def undo(self, frame: int, *, redo: bool = False) -> bool:
        """Take back the latest change of the marks of a frame, or the latest such step; False if
        there is none."""
        with self._lock:
            back, forth = self._undone.get(frame, ([], []))
            source, target = (forth, back) if redo else (back, forth)
            if not source:
                return False
            target.append(self._stored(frame))
            self._store(frame, source.pop())
            return True

    def prompts(self) -> Prompts:
        """The marks as ``propagate --mask marks`` takes them."""
        files: dict[int, Path] = {}
        if self.marks_folder.is_dir():
            index_of = {name: index for index, name in enumerate(self.names)}
            for path in self.marks_folder.glob("*.png"):
                if path.stem in index_of:
                    files[index_of[path.stem]] = path
        return Prompts(masks=files, folders=(self.marks_folder,))

    # Key points

    def place(self, frame: int, number: int, x: float, y: float, model: str) -> None:
        """Place a key point. On another frame than the points so far, all start from there: the
        others where ``model`` tracked them.

        Raises:
            CallError: there are no tracked positions on that frame.
        """
        if self.point_frame not in (None, frame) and set(self.positions) - {number}:
            tracked = self.tracks.get(model, {}).get(frame)
            if tracked is None or len(tracked) != len(self.positions):
                raise CallError(
                    f"key points are given on one frame, {self.point_frame}: place them there, "
                    "track them first, or remove them"
                )
            numbers = sorted(self.positions)
            self.positions = {n: at[:2] for n, at in zip(numbers, tracked, strict=True)}
        self.point_frame = frame
        self.positions[number] = (round(x, 2), round(y, 2))
        self.save()

    def points(self) -> Points:
        """The placed key points.

        Raises:
            CallError: there are none.
        """
        if self.point_frame is None or not self.positions:
            raise CallError("no key point is placed yet: click where it is")
        numbers = sorted(self.positions)
        name_of = {item.id: item.name for item in self.items["points"]}
        return Points(
            frame=self.point_frame,
            names=tuple(name_of[number] for number in numbers),
            xy=tuple(self.positions[number] for number in numbers),
        )

    def shown_points(self, frame: int, model: str) -> list[tuple[float, float] | None]:
        """(x, y) of the key points on a frame by number from 1; None: not placed, not tracked."""
        found = dict(self.positions) if frame == self.point_frame else {}
        tracked = self.tracks.get(model, {}).get(frame)
        if not found and tracked is not None:
            numbers = sorted(self.positions)
            found = {n: at[:2] for n, at in zip(numbers, tracked, strict=False)}
        return [found.get(number) for number in range(1, max(found, default=0) + 1)]

    # Objects and key points

    def add(self, kind: Kind, *, save: bool = True) -> Item:
        """A new object or key point.

        Args:
            save: False: it becomes part of ``studio.json`` only with the next change.

        Raises:
            CallError: there are too many.
        """
        number = max((item.id for item in self.items[kind]), default=0) + 1
        if number > MAX_ITEMS:
            raise CallError(f"a video has at most {MAX_ITEMS} {kind} on this page")
        noun = "object" if kind == "objects" else "point"
        # An overlay has the same colours.
        item = Item(id=number, name=f"{noun} {number}", color=_hex_color(number))
        self.items[kind].append(item)
        if save:
            self.save()
        return item

    def set_color(self, item: Item, color: str) -> None:
        """Change the colour of an object or key point on the page.

        Raises:
            CallError: it is not ``#rrggbb``.
        """
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
            raise CallError(f"{color} is not a colour")
        item.color = color
        self.save()

    def remove(self, kind: Kind, number: int) -> None:
        """Remove an object, with its marks on all frames, or a key point."""
        self.items[kind] = [item for item in self.items[kind] if item.id != number]
        if kind == "points":
            self.positions.pop(number, None)
            self.tracks.clear()
        for frame in self.marked_frames() if kind == "objects" else []:
            with self._lock:
                mask = self.marks(frame)
                if mask is not None and (mask == number).any():
                    mask = np.where(mask == number, np.uint8(0), mask)
                    self._change(frame, encode_mask(mask) if mask.any() else None)
        self.save()

    def save(self) -> None:
        """Write ``studio.json``."""
        with self._lock:
            self.version += 1
            self.folder.mkdir(parents=True, exist_ok=True)
            document = {
                "video": str(self.video.resolve()),
                "objects": [asdict(item) for item in self.items["objects"]],
                "points": [asdict(item) for item in self.items["points"]],
                "point_frame": self.point_frame,
                "positions": {str(number): list(at) for number, at in self.positions.items()},
            }
            write_text(self.folder / NOTE, json.dumps(document, indent=2) + "\n")

    # Results

    def results(self, model: str) -> Path:
        """Folder of the results of a model, see ``studio.ChosenModel``."""
        return self.folder / model

    def masks_folder(self, model: str) -> Path:
        return self.results(model) / "masks"

    def ready(self, model: str) -> tuple[int, int]:
        """Frames with a mask of ``model`` that follows from the present marks: the first, and the
        one after the last."""
        progress = self.progress.get(model) or self._find_progress(model)
        if progress.first == progress.end or not self._digests:
            return 0, 0
        stale = first_changed_prompt(progress.prompts, self._digests)
        end = progress.end if stale is None else min(progress.end, stale)
        return (progress.first, end) if progress.first < end else (0, 0)

    def ready_range(self, kind: Kind, model: str) -> tuple[int, int]:
        """As ``ready``, or the same for key points."""
        if kind == "objects":
            return self.ready(model)
        tracked = self.tracks.get(model, {})
        return (min(tracked), max(tracked) + 1) if tracked else (0, 0)

    def shown(self, frame: int, model: str) -> U8 | None:
        """What a frame shows: its marks, otherwise its propagated mask; uint8 (H, W)."""
        marks = self.marks(frame)
        if marks is not None:
            return marks
        first, end = self.ready(model)
        path = mask_file(self.masks_folder(model), self.names[frame])
        if not first <= frame < end or not path.is_file():
            return None
        return read_mask(path, self.size)

    def difference(self, frame: int, model: str, other: str) -> float | None:
        """Share of the pixels of a frame in which the masks of two models differ, 0 to 1; None:
        one has no mask there."""
        masks = self.shown(frame, model), self.shown(frame, other)
        if masks[0] is None or masks[1] is None:
            return None
        return float((masks[0] != masks[1]).mean())

    def work(
        self,
        kind: Kind,
        model: str,
        source: ModelSource,
        load: Callable[[], Model],
        config: InferenceConfig,
        directions: tuple[Direction, ...],
    ) -> tuple[Work, Callable[[int], int], int]:
        """Prepare a propagation with the present marks or points.

        Args:
            kind: what to propagate.
            model: folder of its results.
            source, load: the model; the work itself loads it.
            directions: passes, in this order.

        Returns:
            The work; what to call with the number of frames done, which returns the latest frame;
            and how many frames there are.

        Raises:
            CallError, MaskError: nothing is marked, or it cannot be propagated.
        """
        given = self.prompts() if kind == "objects" else self.points()
        if isinstance(given, Prompts) and not given.frames:
            raise CallError("nothing is marked yet: draw an object on a frame")
        out = self.results(model) / ("masks" if kind == "objects" else "points")
        job = PropagationJob(video=self.video, prompts=given, out=out, outputs=Outputs())
        refuse_overlap(job.places, (self.video, *given.files, source.path))
        opened = job.check()
        start = given.frames[0] if isinstance(given, Prompts) else given.frame
        order = _order(start, self.info.frames, directions)

        tracks: dict[int, PointTrack] = {}
        if kind == "points":
            self.tracks[model] = tracks
        digests = dict(self._digests)
        done = 0

        def advanced(count: int) -> int:
            nonlocal done
            reached = order[done : done + count]
            done += count
            self.version += 1
            if reached and kind == "objects":
                known = range(*self.ready(model))
                covered = [*known[:1], *known[-1:], *reached]
                self.progress[model] = Progress(
                    first=min(covered), end=max(covered) + 1, prompts=digests
                )
            return order[min(done, len(order)) - 1]

        def work(advance: Callable[[int], None]) -> None:
            job.run(opened, source, load(), config, advance, directions=directions, tracks=tracks)

        return work, advanced, len(order)

    def draw_video(self, model: str, name: str, opacity: float) -> Path:
        """Write ``overlay.mp4`` or ``cutout.webm`` of the frames that have a mask.

        Raises:
            CallError: there are no masks.
        """
        masks = self.masks_folder(model)
        if not (masks / WRITTEN).is_file():
            raise CallError("there are no masks yet: propagate first")
        path = self.results(model) / name
        outputs = Outputs(overlay=path) if name == "overlay.mp4" else Outputs(cutout=path)
        write_outputs(open_video(self.video), masks, outputs, opacity, Written(masks / WRITTEN))
        return path

    def result_files(self, model: str, kind: Kind) -> list[Path]:
        """The masks of all frames of ``ready``, or the table of key points."""
        if kind == "points":
            path = self.results(model) / "points" / POINTS
            return [path] if path.is_file() else []
        first, end = self.ready(model)
        files = [mask_file(self.masks_folder(model), self.names[i]) for i in range(first, end)]
        return [path for path in files if path.is_file()]

    # Files

    def _marks_file(self, frame: int) -> Path:
        return mask_file(self.marks_folder, self.names[frame])

    def _stored(self, frame: int) -> bytes | None:
        path = self._marks_file(frame)
        return path.read_bytes() if path.is_file() else None

    def _change(self, frame: int, contents: bytes | None) -> None:
        back, forth = self._undone.setdefault(frame, ([], []))
        back.append(self._stored(frame))
        del back[:-MAX_UNDO]
        forth.clear()
        self._store(frame, contents)

    def _store(self, frame: int, contents: bytes | None) -> None:
        self.before_change()
        path = self._marks_file(frame)
        if contents is None:
            path.unlink(missing_ok=True)
            self._digests.pop(str(frame), None)
        else:
            self.save()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, contents)
            self._digests[str(frame)] = Prompts(masks={frame: path}).digests()[frame]
        self.version += 1

    def _find_progress(self, model: str) -> Progress:
        """The masks of an earlier session."""
        folder = self.masks_folder(model)
        progress = Progress(first=0, end=0, prompts={})
        try:
            stored = json.loads((folder / RESULT).read_bytes())["prompts"]
        except (OSError, ValueError, KeyError, TypeError):
            stored = {}
        if stored:
            existing = {path.stem for path in folder.glob("*.png")}
            start = min(int(frame) for frame in stored)
            first = end = start
            while end < len(self.names) and self.names[end] in existing:
                end += 1
            while end > start and first > 0 and self.names[first - 1] in existing:
                first -= 1
            progress = Progress(first=first, end=end, prompts=stored)
        self.progress[model] = progress
        return progress

    def _load(self) -> None:
        note = self.folder / NOTE
        if not note.is_file():
            return
        try:
            document: dict[str, Any] = json.loads(note.read_bytes())
            self.items = {
                "objects": [Item(**item) for item in document["objects"]],
                "points": [Item(**item) for item in document["points"]],
            }
            self.point_frame = document["point_frame"]
            self.positions = {
                int(number): (float(at[0]), float(at[1]))
                for number, at in document["positions"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise CallError(f"cannot read {note} ({exc}): move it away or mend it") from exc


def _order(start: int, frames: int, directions: Sequence[Direction]) -> list[int]:
    """The frames in the order in which passes from ``start`` reach them."""
    ahead = range(start, frames)
    back = range(start, -1, -1)
    first, *rest = (ahead if direction == "forward" else back for direction in directions)
    return [*first, *(frame for order in rest for frame in order[1:])]


def _hex_color(number: int) -> str:
    red, green, blue = (int(channel) for channel in bright_palette()[number])
    return f"#{red:02x}{green:02x}{blue:02x}"
