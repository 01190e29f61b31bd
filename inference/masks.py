"""Object masks as files: palette PNG with the colours of PASCAL VOC and DAVIS, read with checks, written atomically.

A mask is uint8 (H, W): 0 is background, every other value is an object id. Colours are for people only.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from corrfractal.errors import MaskError, NotFoundError
from corrfractal.sample import LABEL_COLORS

U8 = npt.NDArray[np.uint8]

MAX_OBJECTS = 255

MANY_OBJECTS = 64
"""More ids than this in a first mask are looked at twice: a picture may have been given, or an anti-aliased drawing."""


def read_mask(path: str | Path, size: tuple[int, ...] | None = None) -> U8:
    """Read object ids, uint8 (H, W), from a palette, grey or black-and-white image.

    Args:
        path: image file. RGB is accepted where it is grey, that is, where its three channels agree.
        size: (H, W) that the mask must have.

    Raises:
        NotFoundError: no such file.
        MaskError: not an image, coloured without a palette, or of another size.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"no such mask: {path}")
    try:
        with Image.open(path) as image:
            mask = _ids(image, path)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as exc:
        raise MaskError(f"the mask {path} is not a readable image: {exc}") from exc
    if size is not None and mask.shape != size:
        raise MaskError(
            f"the mask {path} is {mask.shape[1]}x{mask.shape[0]} but its frame is {size[1]}x{size[0]} "
            "(width x height): give a mask of the frame's size, resized with nearest neighbour"
        )
    return mask


def read_first_mask(path: str | Path, size: tuple[int, ...]) -> U8:
    """Read the mask that starts a propagation, uint8 (H, W): at least one object, and a believable number of them.

    A mask of 0 and 255 only, as drawing programs save it, is one object.

    Raises:
        NotFoundError, MaskError: as ``read_mask``, and for a mask without any object.
    """
    mask = read_mask(path, size)
    ids = np.unique(mask[mask > 0])
    if ids.size == 0:
        raise MaskError(f"the mask {path} is all background (0): mark each object with an id from 1 on")
    if ids.size > MANY_OBJECTS and not _flat(mask):
        raise MaskError(
            f"the mask {path} holds {ids.size} different ids, few of them as flat areas: "
            "it looks like a photograph or an anti-aliased drawing; save one flat value per object"
        )
    return np.where(mask == 255, np.uint8(1), mask) if ids.tolist() == [255] else mask


def write_mask(path: Path, mask: U8) -> None:
    """Write object ids, uint8 (H, W), as a palette PNG; the file gets its name when it is whole."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    image.save(temporary, format="PNG")
    temporary.replace(path)


@cache
def palette() -> U8:
    """The 256 colours of PASCAL VOC and DAVIS, uint8 (256, 3) RGB: the id's bits dealt to R, G and B in turn."""
    ids = np.arange(256)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colors


@cache
def bright_palette() -> U8:
    """256 colours for overlays and curves, uint8 (256, 3) RGB: hues as in ``palette``, brighter, repeated after 15."""
    return np.concatenate([LABEL_COLORS[:1], np.tile(LABEL_COLORS[1:], (17, 1))])


def contours(image: U8, mask: U8) -> U8:
    """Draw the outlines of the objects onto their frame. uint8 (H, W, 3) RGB; lines grow with the frame."""
    lines = image.copy()
    thickness = max(2, round(min(mask.shape) / 240))
    for object_id in np.unique(mask[mask > 0]):
        found, _ = cv2.findContours((mask == object_id).view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        color = tuple(int(c) for c in bright_palette()[object_id])
        cv2.drawContours(lines, found, -1, color, thickness, cv2.LINE_AA)
    return lines


def cut_out(image: U8, mask: U8) -> U8:
    """The objects alone: uint8 (H, W, 4) RGBA, clear and black where the mask is background."""
    return np.where((mask > 0)[..., None], np.dstack([image, np.full(mask.shape, 255, dtype=np.uint8)]), np.uint8(0))


def blend(image: U8, mask: U8, opacity: float = 0.5) -> U8:
    """Lay a mask over its frame: objects tinted, their inner rim in full colour. uint8 (H, W, 3) RGB."""
    colors = bright_palette()[mask]
    tinted = cv2.addWeighted(image, 1 - opacity, colors, opacity, 0)
    rim = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), dtype=np.uint8)) > 0
    tinted[rim] = colors[rim]
    return np.where((mask > 0)[..., None], tinted, image)


def _flat(mask: U8) -> bool:
    """Whether most pixels, and most ids somewhere, have only pixels of their own id around them."""
    same = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), dtype=np.uint8)) == 0
    return bool(same.mean() > 0.5 and np.unique(mask[same]).size > 0.75 * np.unique(mask).size)


def _ids(image: Image.Image, path: Path) -> U8:
    if image.mode in ("P", "L"):
        return np.array(image, dtype=np.uint8)
    if image.mode == "1":
        return np.array(image).astype(np.uint8)
    if image.mode in ("LA", "PA"):
        return np.array(image, dtype=np.uint8)[..., 0]
    if image.mode.startswith("I") or image.mode == "F":
        return _narrow(np.array(image), path)
    rgb = np.array(image.convert("RGB"))
    if not ((rgb[..., 0] == rgb[..., 1]) & (rgb[..., 0] == rgb[..., 2])).all():
        raise MaskError(
            f"the mask {path} is coloured ({image.mode}): its colours are not object ids; save it as a palette PNG "
            "(DAVIS style) or as a grey image whose values are 0 for background and 1, 2, ... for the objects"
        )
    return np.ascontiguousarray(rgb[..., 0])


def _narrow(values: npt.NDArray[np.generic], path: Path) -> U8:
    mask = values.astype(np.uint8)
    if not (mask == values).all():
        raise MaskError(f"the mask {path} holds values outside 0..255: save it with 8 bits, one id per object")
    return mask
