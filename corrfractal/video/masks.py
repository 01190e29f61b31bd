"""Object masks from image files in any usual mode; images whose values cannot be ids are refused.

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
VOID = 255  # VOC: pixels that belong to no object for certain

# Pixels; twice the width of the void rim where two objects of VOC touch.
VOID_RIM = 11

# With more ids than this the file is suspected to be a photograph or an anti-aliased drawing.
MANY_OBJECTS = 64

SQUARE = np.ones((3, 3), dtype=np.uint8)

# A drawing has one bright value, 128 or 255; ids are small numbers.
BRIGHT = 32

# Pixels around an edge in which anti-aliasing and JPEG (8x8 blocks) leave intermediate values.
REACH = 8


def read_mask(path: str | Path, size: tuple[int, ...] | None = None) -> U8:
    """Read object ids from a palette, grey or black-and-white image.

    Args:
        path: image file. RGB is accepted if its three channels agree. If only alpha varies, alpha
            is the mask.
        size: (H, W) that the mask must have.

    Returns:
        uint8 (H, W).

    Raises:
        NotFoundError: no such file.
        MaskError: not an image, coloured without a palette, or of another size.
    """
    return _read(Path(path), size)[0]


def read_first_mask(path: str | Path, size: tuple[int, ...]) -> U8:
    """Read the mask that starts a propagation: at least one object, and ids that fill areas.

    Special cases:

    - A mask of 0 and 255 only, as saved by drawing programs, is one object.
    - A mask with one bright value, and intermediate values only at the object's edge (from
      anti-aliasing or JPEG compression), is one object: all pixels above half of that value.
    - In a palette image a thin rim of 255 next to other ids is the void value of PASCAL VOC, and
      becomes background.

    Args:
        path: as in ``read_mask``.
        size: (H, W) of the first frame.

    Returns:
        uint8 (H, W).

    Raises:
        NotFoundError, MaskError: as ``read_mask``; also for a mask without any object, or with
            values that are no ids.
    """
    path = Path(path)
    mask, lossy, indexed = _read(path, size)
    ids = np.unique(mask[mask > 0])

    # Only in a palette image: in a grey one 255 is how drawing programs mark an object.
    if indexed and ids.size > 1 and _is_void_rim(mask == VOID):
        mask = np.where(mask == VOID, np.uint8(0), mask)
        ids = ids[:-1]
    if ids.size == 0:
        raise MaskError(
            f"the mask {path} is all background (0): mark each object with an id from 1 on"
        )

    if not lossy and not _has_blends(mask, ids):
        return np.where(mask == 255, np.uint8(1), mask) if ids.tolist() == [255] else mask
    # Blends of one object can be repaired; those of several objects are ambiguous.
    drawing = _one_object(mask)
    if drawing is not None:
        return drawing
    raise MaskError(
        f"the mask {path} holds {ids.size} different ids, of which some fill no area: it looks "
        "like a photograph, an anti-aliased drawing, or a mask that was resized or saved as JPEG; "
        "save it as PNG with one flat value per object, resized with nearest neighbour"
    )


@cache
def palette() -> U8:
    """The 256 colours of PASCAL VOC and DAVIS, uint8 (256, 3) RGB.

    The bits of an id are distributed to R, G and B in turn, most significant colour bit first.
    """
    ids = np.arange(256)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colors


def _read(path: Path, size: tuple[int, ...] | None) -> tuple[U8, bool, bool]:
    """Read a mask.

    Returns:
        The ids; whether the format is lossy; whether it has a palette.
    """
    if not path.is_file():
        raise NotFoundError(f"no such mask: {path}")
    try:
        image = open_image(path)
    except ImageError as exc:
        raise MaskError(f"the mask {path} is not a readable image: {exc.reason}") from exc
    lossy = image.format in ("JPEG", "MPO")
    indexed = image.mode == "P"

    # Frames are turned upright too, so the mask must be.
    if "exif" in image.info:
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
    """Whether some values are not ids but mixtures of ids, from drawing, smoothing or compression.

    A value that fills 3x3 pixels somewhere is an id. The others are *thin*: lines, or edges. An
    edge lies between a lower and a higher value along its whole length.

    Args:
        mask: uint8 (H, W).
        ids: its values except 0, ascending.
    """
    thin = np.setdiff1d(ids, mask[_flat(mask)])
    if len(ids) > MANY_OBJECTS and len(thin) > len(ids) / 4:
        return True
    if len(thin) >= 3 and len(thin) >= len(ids) / 2 and ids[-1] >= BRIGHT:
        return True
    if len(ids) >= 2 and ids[0] >= 0.9 * ids[-1] and ids[-1] >= BRIGHT:
        return True  # 254 and 255 are the same white

    between = (cv2.erode(mask, SQUARE) < mask) & (mask < cv2.dilate(mask, SQUARE))
    blends = [value for value in thin if between[mask == value].mean() > 0.9]
    # A few pixels of a small id may have such neighbours by chance.
    return bool(blends) and (ids[-1] >= BRIGHT or np.isin(mask, blends).sum() >= 12)


def _one_object(mask: U8) -> U8 | None:
    """The object of a drawing with one bright value, uint8 (H, W) of 0 and 1, or None.

    None: intermediate values are away from the edge, or fill an area as an object of another grey
    would.
    """
    top = int(mask.max())
    dark = mask <= 0.15 * top
    bright = mask >= 0.85 * top
    if top < BRIGHT or not dark.any():
        return None

    # The edge is where dark and bright pixels are both within reach.
    window = np.ones((2 * REACH + 1, 2 * REACH + 1), dtype=np.uint8)
    near_dark = cv2.dilate(dark.view(np.uint8), window) > 0
    near_bright = cv2.dilate(bright.view(np.uint8), window) > 0
    edge = near_dark & near_bright
    between = ~(dark | bright)
    if (between & (~edge | _flat(mask))).any():
        return None
    return (mask > top / 2).astype(np.uint8)


def _is_void_rim(void: npt.NDArray[np.bool_]) -> bool:
    """Whether the pixels of 255, bool (H, W), are a thin rim: VOC draws 5 pixels per object."""
    window = np.ones((VOID_RIM, VOID_RIM), dtype=np.uint8)
    return bool(void.any() and not cv2.erode(void.view(np.uint8), window).any())


def _flat(mask: U8) -> npt.NDArray[np.bool_]:
    """Pixels whose eight neighbours have the same value, bool (H, W)."""
    return np.asarray(cv2.erode(mask, SQUARE) == cv2.dilate(mask, SQUARE))


def _ids(image: Image.Image, path: Path) -> U8:
    """Ids of an image of any mode, uint8 (H, W).

    Raises:
        MaskError: the image is coloured, or its values are outside 0..255.
    """
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

    # Drawing programs save an object as alpha, or a grey mask as RGB.
    pixels = np.array(image.convert("RGBA"))
    rgb = pixels[..., :3]
    alpha = pixels[..., 3]
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
    """Whether a program that saves space sorted the palette, so that black is not index 0."""
    colors = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    black = np.flatnonzero((colors == 0).all(axis=1))
    return colors[0].any() and bool(np.isin(np.array(image), black).any())


def _narrow(values: npt.NDArray[np.generic], path: Path) -> U8:
    """Ids stored with 16 bits or more: unscaled, or 8 bits stretched to 16 by 257 or 256.

    Raises:
        MaskError: neither of these gives integers in 0..255.
    """
    for factor in (1, 257, 256):
        with np.errstate(invalid="ignore"):  # infinite floats
            mask = (values // factor).astype(np.uint8)
        if (mask * np.int64(factor) == values).all():
            return mask
    raise MaskError(
        f"the mask {path} holds values outside 0..255, or fractions: save it with 8 bits, one id "
        "per object"
    )
