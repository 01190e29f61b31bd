"""Object masks as palette PNG with the colours of PASCAL VOC and DAVIS, and masks drawn over their
frames. ``corrfractal.video.masks`` reads them.

A mask is uint8 (H, W): 0 is background, any other value is an object id. Colours are for display
only.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from corrfractal.files.atomic import write_bytes
from corrfractal.shards.clip import LABEL_COLORS
from corrfractal.video.masks import MAX_OBJECTS, palette, read_first_mask, read_mask

__all__ = [
    "MAX_OBJECTS",
    "blend",
    "bright_palette",
    "contours",
    "cut_out",
    "encode_mask",
    "palette",
    "read_certainty",
    "read_first_mask",
    "read_mask",
    "write_mask",
]

U8 = npt.NDArray[np.uint8]

# Of PNG: not needed to show the image, private, and void once the pixels are edited.
CERTAINTY_CHUNK = b"ceRT"
CERTAINTY_SIZE = struct.Struct(">II")  # h, w


def encode_mask(mask: U8, certainty: U8 | None = None) -> bytes:
    """Encode object ids, uint8 (H, W), as a palette PNG. ``certainty``, uint8 (h, w), is added as a
    chunk that readers of PNG files skip: it is stored with the mask or not at all."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    chunks = PngInfo()
    if certainty is not None:
        data = zlib.compress(certainty.tobytes())
        chunks.add(CERTAINTY_CHUNK, CERTAINTY_SIZE.pack(*certainty.shape) + data)
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", pnginfo=chunks)
    return encoded.getvalue()


def read_certainty(path: Path) -> U8 | None:
    """What ``encode_mask`` stored with a mask, uint8 (h, w); None: nothing."""
    with Image.open(path) as image:
        assert isinstance(image, PngImageFile)
        for name, data, *_ in image.private_chunks:
            if name == CERTAINTY_CHUNK:
                h, w = CERTAINTY_SIZE.unpack_from(data)
                values = zlib.decompress(data[CERTAINTY_SIZE.size :])
                return np.frombuffer(values, dtype=np.uint8).reshape(h, w)
    return None


def write_mask(path: Path, mask: U8) -> None:
    """Write object ids, uint8 (H, W), as a palette PNG, atomically."""
    write_bytes(path, encode_mask(mask))


@cache
def bright_palette() -> U8:
    """256 colours for overlays and curves, uint8 (256, 3) RGB: brighter than ``palette``, and
    repeated after 15 objects."""
    return np.concatenate([LABEL_COLORS[:1], np.tile(LABEL_COLORS[1:], (17, 1))])


def contours(image: U8, mask: U8) -> U8:
    """A copy of a frame, uint8 (H, W, 3) RGB, with the outlines of its objects; line width scales
    with the frame."""
    outlined = image.copy()
    thickness = max(2, round(min(mask.shape) / 240))
    for object_id in np.unique(mask[mask > 0]):
        # RETR_LIST finds the borders of holes as well.
        outlines, _ = cv2.findContours(
            (mask == object_id).view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
        )
        color = tuple(int(channel) for channel in bright_palette()[object_id])
        cv2.drawContours(outlined, outlines, -1, color, thickness, cv2.LINE_AA)
    return outlined


def cut_out(image: U8, mask: U8) -> U8:
    """The objects alone, uint8 (H, W, 4) RGBA; background is transparent black."""
    # Black rather than the frame's pixels: they would compress worse and leak the background.
    opaque = np.full(mask.shape, 255, dtype=np.uint8)
    return np.where((mask > 0)[..., None], np.dstack([image, opaque]), np.uint8(0))


def blend(image: U8, mask: U8, opacity: float = 0.5) -> U8:
    """A copy of a frame, uint8 (H, W, 3) RGB, with its objects tinted and their inner rims in solid
    colour."""
    # The rim separates touching objects whose tints look alike.
    colors = bright_palette()[mask]
    tinted = cv2.addWeighted(image, 1 - opacity, colors, opacity, 0)
    rim = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), dtype=np.uint8)) > 0
    tinted[rim] = colors[rim]
    return np.where((mask > 0)[..., None], tinted, image)
