"""Small real inputs of odd kinds, built by code: every frame carries its own number, so a wrong one is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]

HEIGHT = 160
WIDTH = 192  # decord reads sides from 160 pixels on
BITS = 8  # of a frame's number, drawn as black and white fields along the upper edge


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> U8:
    """Frame ``number``, uint8 (height, width, 3) RGB: a disc that moves over a ramp, below its number in binary."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 96)], axis=-1).astype(np.uint8)
    centre = (height * 0.6, width * (0.2 + 0.6 * (number % 24) / 24))
    image[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (height / 6) ** 2] = (220, 40, 40)
    for bit in range(BITS):
        field = slice(width * bit // BITS, width * (bit + 1) // BITS)
        image[: height // 6, field] = 235 if number >> bit & 1 else 20
    return image


def number_of(image: U8) -> int:
    """The number drawn on a frame by ``picture``, whatever size it was brought to."""
    height, width = image.shape[:2]
    number = 0
    for bit in range(BITS):
        middle = width * (2 * bit + 1) // (2 * BITS)
        patch = image[height // 24 : height // 10 + 1, max(middle - 1, 0) : middle + 2]
        number |= int(patch.mean() > 128) << bit
    return number


def numbers(images: Iterable[Any]) -> list[int]:
    """The numbers of frames as ``open_video(...).frames()`` yields them."""
    return [number_of(frame.image) for frame in images]

def write(
    path: Path,
    images: int | Sequence[U8] = 24,
    codec: str = "libx264",
    *,
    pix_fmt: str = "yuv420p",
    rate: int = 24,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    setup: Callable[[Any], None] | None = None,
    colours: dict[str, Any] | None = None,
    edit: Callable[[list[Any]], Iterable[Any]] = iter,
    form: str | None = None,
) -> Path:
    """Encode pictures (``picture(0)`` on, where a count is given) and mux what ``edit`` makes of the packets.

    Args:
        options: of the encoder.
        container: options of the muxer.
        setup: called with the encoder before it is opened.
        colours: how RGB becomes ``pix_fmt``, see ``av.VideoFrame.reformat``.
        form: of the container, where the suffix does not say it.
    """
    shown = [picture(number) for number in range(images)] if isinstance(images, int) else images
    with av.open(str(path), "w", format=form, options=container or {}) as out:
        stream: Any = out.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width = shown[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if setup is not None:
            setup(stream.codec_context)
        packets = []
        for number, image in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format=pix_fmt, **(colours or {}))
            frame.pts = number
            frame.time_base = Fraction(1, rate)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        out.start_encoding()
        for packet in edit(packets):
            out.mux(packet)
    return path
