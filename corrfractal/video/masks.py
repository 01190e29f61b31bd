"""Masks from files: object ids as people make them, of any usual mode, and those that cannot be ids
refused.

A mask is uint8 (H, W): 0 is background, every other value is an object id.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from corrfractal.common.errors import MaskError, NotFoundError

from .images import ImageError, open_image

U8 = npt.NDArray[np.uint8]

MAX_OBJECTS = 255
VOID = 255
VOID_RIM = 11  # pixels; twice the rim of VOC where two objects touch

MANY_OBJECTS = 64
"""More ids than this in a first mask are looked at twice: a picture may have been given, or an
anti-aliased drawing."""

SQUARE = np.ones((3, 3), dtype=np.uint8)
BRIGHT = 32  # a drawing has one bright value, 128 or 255; ids are small numbers
# Pixels around an edge in which anti-aliasing and JPEG, whose blocks are 8x8, leave values between
REACH = 8


def read_mask(path: str | Path, size: tuple[int, ...] | None = None) -> U8:
    """Read object ids, uint8 (H, W), from a palette, grey or black-and-white image.

    Args:
        path: image file. RGB is accepted where it is grey, that is, where its three channels agree.
            Where alpha is the only thing that varies, it is the mask.
        size: (H, W) that the mask must have.

    Raises:
        NotFoundError: no such file.
        MaskError: not an image, coloured without a palette, or of another size.
    """
    return _read(Path(path), size)[0]


def read_first_mask(path: str | Path, size: tuple[int, ...]) -> U8:
    """Read the mask that starts a propagation, uint8 (H, W): at least one object, and ids that fill
    areas.

    A mask of 0 and 255 only, as drawing programs save it, is one object. So is one of a bright
    value with values between only at the object's edge, as anti-aliasing and JPEG compression leave
    them: from half of it on. In a palette image a thin rim of 255 beside other ids is the void
    value of PASCAL VOC, and read as background.

    Raises:
        NotFoundError, MaskError: as ``read_mask``, and for a mask without any object, or with
        values that are no ids.
    """
    path = Path(path)
    mask, lossy, indexed = _read(path, size)
    ids = np.unique(mask[mask > 0])
    if indexed and ids.size > 1 and _is_void_rim(mask == VOID):
        mask = np.where(mask == VOID, np.uint8(0), mask)
        ids = ids[:-1]
    if ids.size == 0:
        raise MaskError(
            f"the mask {path} is all background (0): mark each object with an id from 1 on"
        )
    if not lossy and not _has_blends(mask, ids):
        return np.where(mask == 255, np.uint8(1), mask) if ids.tolist() == [255] else mask
    if (one := _one_object(mask)) is not None:
        return one
    raise MaskError(
        f"the mask {path} holds {ids.size} different ids, of which some fill no area: it looks "
        "like a photograph, an anti-aliased drawing, or a mask that was resized or saved as JPEG; "
        "save it as PNG with one flat value per object, resized with nearest neighbour"
    )


@cache
def palette() -> U8:
    """The 256 colours of PASCAL VOC and DAVIS, uint8 (256, 3) RGB: the id's bits dealt to R, G and
    B in turn."""
    ids = np.arange(256)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colors


def _read(path: Path, size: tuple[int, ...] | None) -> tuple[U8, bool, bool]:
    """The ids of a mask, whether its format cannot keep them exactly, and whether it has a
    palette."""
    if not path.is_file():
        raise NotFoundError(f"no such mask: {path}")
    try:
        image = open_image(path)
    except ImageError as exc:
        raise MaskError(f"the mask {path} is not a readable image: {exc.reason}") from exc
    lossy = image.format in ("JPEG", "MPO")
    indexed = image.mode == "P"
    if "exif" in image.info:  # frames are read as they are shown, too
        image = ImageOps.exif_transpose(image)
    mask = _ids(image, path)
    if size is not None and mask.shape != size:
        raise MaskError(
            f"the mask {path} is {mask.shape[1]}x{mask.shape[0]} but its frame is "
            f"{size[1]}x{size[0]} (width x height): give a mask of the frame's size, resized with "
            "nearest neighbour"
        )
    return mask, lossy, indexed


def _has_blends(mask: U8, ids: U8) -> bool:
    """Whether some values are no ids, but mixed of others: where they are drawn, smoothed or
    compressed.

    An id that fills an area somewhere, 3x3 pixels of its own, is one. Of the others,
    thin objects are distinguished from edges by their neighbours: an edge is between a lower and a
    higher value all along.
    """
    thin = np.setdiff1d(ids, mask[_flat(mask)])
    if len(ids) > MANY_OBJECTS and len(thin) > len(ids) / 4:
        return True
    if len(thin) >= 3 and len(thin) >= len(ids) / 2 and ids[-1] >= BRIGHT:
        return True
    if len(ids) >= 2 and ids[0] >= 0.9 * ids[-1] and ids[-1] >= BRIGHT:
        return True  # 254 and 255 are one white
    between = (cv2.erode(mask, SQUARE) < mask) & (mask < cv2.dilate(mask, SQUARE))
    blends = [value for value in thin if between[mask == value].mean() > 0.9]
    # A few pixels of a small id may lie so by chance.
    return bool(blends) and (ids[-1] >= BRIGHT or np.isin(mask, blends).sum() >= 12)


def _one_object(mask: U8) -> U8 | None:
    """The object of a drawing of one bright value, uint8 (H, W) of 0 and 1; None where it is no
    such drawing.

    Values between may only be at the edge, and fill no area: that would be an object of another
    grey.
    """
    top = int(mask.max())
    dark = mask <= 0.15 * top
    bright = mask >= 0.85 * top
    if top < BRIGHT or not dark.any():
        return None
    window = np.ones((2 * REACH + 1, 2 * REACH + 1), dtype=np.uint8)
    edge = (cv2.dilate(dark.view(np.uint8), window) & cv2.dilate(bright.view(np.uint8), window)) > 0
    between = ~(dark | bright)
    if (between & (~edge | _flat(mask))).any():
        return None
    return (mask > top / 2).astype(np.uint8)


def _is_void_rim(void: npt.NDArray[np.bool_]) -> bool:
    """Whether the pixels of 255, bool (H, W), are a rim: VOC draws 5 pixels around each object."""
    window = np.ones((VOID_RIM, VOID_RIM), dtype=np.uint8)
    return bool(void.any() and not cv2.erode(void.view(np.uint8), window).any())


def _flat(mask: U8) -> npt.NDArray[np.bool_]:
    """Pixels whose eight neighbours have the same value, bool (H, W)."""
    return np.asarray(cv2.erode(mask, SQUARE) == cv2.dilate(mask, SQUARE))


def _ids(image: Image.Image, path: Path) -> U8:
    if image.mode == "P" and not _background_is_last(image):
        return np.array(image, dtype=np.uint8)
    if image.mode == "L":
        return np.array(image, dtype=np.uint8)
    if image.mode == "1":
        return np.array(image).astype(np.uint8)
    if image.mode == "PA":
        return np.array(image, dtype=np.uint8)[..., 0]
    if image.mode.startswith("I") or image.mode == "F":
        return _narrow(np.array(image), path)
    pixels = np.array(image.convert("RGBA"))
    rgb, alpha = pixels[..., :3], pixels[..., 3]
    if (rgb == rgb[0, 0]).all() and (alpha != alpha[0, 0]).any():
        return np.ascontiguousarray(alpha)
    if not (rgb == rgb[..., :1]).all():
        raise MaskError(
            f"the mask {path} is coloured ({image.mode}): its colours are not object ids; save it "
            "as a palette PNG (DAVIS style) or as a grey image whose values are 0 for background "
            "and 1, 2, ... for the objects"
        )
    return np.ascontiguousarray(rgb[..., 0])


def _background_is_last(image: Image.Image) -> bool:
    """Whether a palette was sorted by a program that saves space: black, the background, has
    another index than 0."""
    colors = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    black = np.flatnonzero((colors == 0).all(axis=1))
    return colors[0].any() and bool(np.isin(np.array(image), black).any())


def _narrow(values: npt.NDArray[np.generic], path: Path) -> U8:
    """Ids of 16 bits or more: as they are, or 8 bits stretched to 16, times 257 or 256."""
    for factor in (1, 257, 256):
        with np.errstate(invalid="ignore"):  # of infinite floats
            mask = (values // factor).astype(np.uint8)
        if (mask * np.int64(factor) == values).all():
            return mask
    raise MaskError(
        f"the mask {path} holds values outside 0..255, or fractions: save it with 8 bits, one id "
        "per object"
    )
