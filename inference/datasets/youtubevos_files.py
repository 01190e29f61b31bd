"""Layout of YouTube-VOS, as published.

    <split>/JPEGImages/<video>/00000.jpg
    <split>/Annotations/<video>/<frame>.png     palette PNG
    <split>/meta.json                           frames and, if public, category of every object

Where the truth is public, every fifth frame is annotated, otherwise only the first frame of each
object. An object is *seen* if its category is one of the 65 of the training set.

Source: Xu et al., "YouTube-VOS: a large-scale video object segmentation benchmark" (2018),
https://youtube-vos.org. The categories are those of the ``meta.json`` of the training set.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from corrfractal.common.errors import IntegrityError, MaskError, NotFoundError
from corrfractal.common.text import decode_text
from inference.metrics.jf import VOID
from inference.prompts.mask_images import read_mask

from .folders import files_in, fingerprint, read_picture, require_folders

U8 = npt.NDArray[np.uint8]

_CATEGORIES = """
    airplane ape bear bike bird boat bucket bus camel cat cow crocodile deer dog dolphin duck eagle
    earless_seal elephant fish fox frisbee frog giant_panda giraffe hand hat hedgehog horse knife
    leopard lion lizard monkey motorbike mouse others owl paddle parachute parrot penguin person
    plant rabbit raccoon sedan shark sheep sign skateboard snail snake snowboard squirrel surfboard
    tennis_racket tiger toilet train truck turtle umbrella whale zebra
"""
SEEN = frozenset(_CATEGORIES.split())


class ObjectMeta(BaseModel):
    """An object in ``meta.json``: names of its annotated frames, of which the first is given, and
    its category."""

    frames: tuple[str, ...]
    category: str | None = None

    @property
    def seen(self) -> bool | None:
        """Whether the training set has the category; None if it is not public."""
        return None if self.category is None else self.category in SEEN


class _VideoMeta(BaseModel):
    objects: dict[int, ObjectMeta]


class _Meta(BaseModel):
    videos: dict[str, _VideoMeta]


@dataclass(frozen=True, kw_only=True)
class YoutubeVosVideo:
    """The files of one video and its objects; pictures are read on demand.

    Attributes:
        name: such as ``003234408d``.
        frames: JPEG files, in order.
        annotations: PNG files by the name of their frame.
        objects: entries of ``meta.json`` by object id.
    """

    name: str
    frames: tuple[Path, ...]
    annotations: dict[str, Path]
    objects: dict[int, ObjectMeta]

    def frame(self, t: int) -> U8:
        """Frame t, uint8 (H, W, 3) RGB.

        Raises:
            VideoError: the file is not a readable image.
        """
        return read_picture(self.frames[t], t)

    def annotation(self, stem: str, size: tuple[int, ...]) -> U8:
        """Object ids of the frame with this name, uint8 (H, W); void is background.

        Raises:
            MaskError: the file is not a readable mask, or is not of ``size`` (H, W).
        """
        mask = read_mask(self.annotations[stem], size)
        return np.where(mask == VOID, np.uint8(0), mask)

    def given(self, t: int, size: tuple[int, ...]) -> U8 | None:
        """The objects that are annotated for the first time in frame t, uint8 (H, W); None if there
        are none.

        Raises:
            MaskError: the annotation lacks such an object.
        """
        stem = self.frames[t].stem
        new = [i for i, about in self.objects.items() if about.frames[0] == stem]
        if not new:
            return None
        mask = self.annotation(stem, size)
        for i in new:
            if not (mask == i).any():
                raise MaskError(
                    f"the annotation {self.annotations[stem]} lacks object {i}, which begins there"
                )
        return np.where(np.isin(mask, new), mask, np.uint8(0))

    def truth(self, object_id: int) -> tuple[str, ...]:
        """Names of the frames in which an object is scored: its public annotations after the
        first."""
        return tuple(
            stem for stem in self.objects[object_id].frames[1:] if stem in self.annotations
        )

    def fingerprint(self) -> str:
        """SHA-256 over names and contents of all files, and the objects as JSON."""
        files = fingerprint((*self.frames, *self.annotations.values()))
        objects = {object_id: about.model_dump() for object_id, about in self.objects.items()}
        return files + json.dumps(objects, sort_keys=True)


def video_names(root: Path, split: str = "valid") -> tuple[str, ...]:
    """Names of the videos of a split, in the order of ``meta.json``.

    Raises:
        NotFoundError, IntegrityError: ``root`` is not the data set, or ``meta.json`` is damaged;
        names the file.
    """
    folder = root / split
    require_folders("YouTube-VOS", root, folder / "JPEGImages", folder / "Annotations")
    return tuple(_meta(folder / "meta.json").videos)


def open_video(root: Path, name: str, split: str = "valid") -> YoutubeVosVideo:
    """Look up the files of a video.

    Raises:
        NotFoundError: a folder is missing, or the first annotation of an object, or the picture of
            an annotated frame; names it.
        IntegrityError: ``meta.json`` is damaged, or names no frame of an object.
    """
    folder = root / split
    frames = files_in(folder / "JPEGImages" / name, ".jpg")
    annotations = {path.stem: path for path in files_in(folder / "Annotations" / name, ".png")}
    objects = _meta(folder / "meta.json").videos[name].objects
    pictures = {frame.stem for frame in frames}
    for object_id, about in objects.items():
        if not about.frames:
            raise IntegrityError(
                f"{folder / 'meta.json'} names no frame of object {object_id} of video {name}"
            )
        first = about.frames[0]
        if first not in annotations:
            missing = folder / "Annotations" / name / f"{first}.png"
            raise NotFoundError(
                f"video {name}: the annotation {missing}, where object {object_id} begins, is "
                "missing"
            )
        for stem in about.frames:
            if stem in annotations and stem not in pictures:
                raise NotFoundError(
                    f"video {name}: the picture {frames[0].with_name(f'{stem}.jpg')} is missing"
                )
    return YoutubeVosVideo(name=name, frames=frames, annotations=annotations, objects=objects)


def _meta(path: Path) -> _Meta:
    if not path.is_file():
        raise NotFoundError(
            f"the list of videos and objects {path} does not exist: the data set is incomplete"
        )
    return _read_meta(path, path.stat().st_mtime_ns)


@cache
def _read_meta(path: Path, changed: int) -> _Meta:
    """Cached, since every video looks into it; read again if its time of change differs."""
    try:
        return _Meta.model_validate_json(decode_text(path.read_bytes(), errors="strict"))
    except UnicodeDecodeError as exc:
        raise IntegrityError(f"{path} is not a meta.json of YouTube-VOS: it is not text") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise IntegrityError(
            f"{path} is not a meta.json of YouTube-VOS: {where}: {first['msg']}"
        ) from exc
