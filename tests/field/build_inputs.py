"""Small real inputs of odd kinds, built by code. Every frame carries its own number, so that a
wrong one is noticed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import VideoError
from corrfractal.video import Frame, Video

U8 = npt.NDArray[np.uint8]

HEIGHT = 160
WIDTH = 192  # decord reads sides from 160 pixels on
BITS = 8  # of a frame's number, drawn as black and white fields along the upper edge

FAST = {"bf": "0", "preset": "ultrafast"}  # libx264 without B-frames
B_FRAMES = {"bf": "2", "g": "12", "preset": "veryfast"}


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> U8:
    """Frame ``number``, uint8 (height, width, 3) RGB: a disc that moves over a ramp, and above it
    the number in binary."""
    y, x = np.mgrid[:height, :width]
    ramp = (x * 255 // width, y * 255 // height, np.full_like(x, 96))
    image = np.stack(ramp, axis=-1).astype(np.uint8)
    middle = width * (0.2 + 0.6 * (number % 24) / 24)
    image[(y - height * 0.6) ** 2 + (x - middle) ** 2 < (height / 6) ** 2] = (220, 40, 40)
    for bit in range(BITS):
        field = slice(width * bit // BITS, width * (bit + 1) // BITS)
        image[: height // 6, field] = 235 if number >> bit & 1 else 20
    return image


def number_of(image: U8) -> int:
    """The number that ``picture`` drew on a frame, whatever size the frame was brought to."""
    height, width = image.shape[:2]
    number = 0
    for bit in range(BITS):
        middle = width * (2 * bit + 1) // (2 * BITS)
        patch = image[height // 24 : height // 10 + 1, max(middle - 1, 0) : middle + 2]
        number |= int(patch.mean() > 128) << bit
    return number


def numbers(frames: Iterable[Any]) -> list[int]:
    """The numbers of frames as ``open_video(...).frames()`` yields them."""
    return [number_of(frame.image) for frame in frames]


def read_until_error(video: Video) -> tuple[list[Frame], VideoError | None]:
    """The frames of a video up to its damage, and what was raised there."""
    frames: list[Frame] = []
    try:
        frames.extend(video.frames())
    except VideoError as exc:
        return frames, exc
    return frames, None


def write(
    path: Path,
    images: int | Sequence[U8] = 24,
    codec: str = "libx264",
    *,
    pix_fmt: str = "yuv420p",
    rate: int = 24,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    form: str | None = None,
    setup: Callable[[Any], None] = lambda encoder: None,
    colours: dict[str, Any] | None = None,
    edit: Callable[[list[Any]], Iterable[Any]] = iter,
) -> Path:
    """Encode pictures and mux what ``edit`` makes of the packets.

    Args:
        images: pictures, or the number of them: ``picture(0)`` on.
        options: of the encoder; libx264 is fast and without B-frames by default.
        container: options of the muxer.
        form: of the container, where the suffix does not say it.
        setup: called with the encoder before it is opened.
        colours: how RGB becomes ``pix_fmt``, see ``av.VideoFrame.reformat``.
    """
    shown = [picture(number) for number in range(images)] if isinstance(images, int) else images
    given = FAST if options is None and codec == "libx264" else options
    with av.open(str(path), "w", format=form, options=container or {}) as out:
        stream: Any = out.add_stream(codec, rate=rate, options=dict(given or {}))
        stream.height, stream.width = shown[0].shape[:2]
        stream.pix_fmt = pix_fmt
        setup(stream.codec_context)
        packets = encode(stream, shown, rate, colours)
        out.start_encoding()
        for packet in edit(packets):
            out.mux(packet)
    return path


def write_two_sizes(
    path: Path, codec: str, first: Sequence[U8], second: Sequence[U8], options: dict[str, str]
) -> Path:
    """A video whose picture changes its size at a key frame, as one does when a phone is turned."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=24, options=dict(options))
        stream.height, stream.width = first[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        packets = encode(stream, first, 24)
        other: Any = av.CodecContext.create(codec, "w")
        other.height, other.width = second[0].shape[:2]
        other.pix_fmt = "yuv420p"
        other.time_base = Fraction(1, 24)
        other.framerate = Fraction(24)
        other.options = dict(options)
        later = encode(other, second, 24, start=len(first))
        out.start_encoding()
        for packet in packets + later:
            packet.stream = stream
            out.mux(packet)
    return path


def encode(
    encoder: Any,
    images: Sequence[U8],
    rate: int,
    colours: dict[str, Any] | None = None,
    start: int = 0,
) -> list[Any]:
    """Packets of pictures."""
    packets = []
    for number, image in enumerate(images, start=start):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = frame.reformat(format=encoder.pix_fmt, **(colours or {}))
        frame.pts = number
        frame.time_base = Fraction(1, rate)
        packets += encoder.encode(frame)
    return packets + list(encoder.encode(None))


def copy_of(packet: Any, data: bytes) -> Any:
    """A packet with other contents at the same place and time."""
    copy: Any = av.Packet(data)
    for name in ("stream", "pts", "dts", "time_base", "duration", "is_keyframe"):
        setattr(copy, name, getattr(packet, name))
    return copy


def retimed(time: Callable[[int], int]) -> Callable[[list[Any]], Iterable[Any]]:
    """For ``write(edit=...)``: packet k, of a stream without B-frames, is shown at ``time(k)``."""

    def edit(packets: list[Any]) -> Iterable[Any]:
        times = [time(k) for k in range(len(packets))]
        ascending = all(later > earlier for earlier, later in pairwise(times))
        for k, packet in enumerate(packets):
            packet.pts = times[k]
            packet.dts = times[k] if ascending else k - 1000  # muxers insist on order here
            yield packet

    return edit


def from_second_key_frame(packets: list[Any]) -> list[Any]:
    """For ``write(edit=...)``: cut by stream copy at the second key frame."""
    keys = [k for k, packet in enumerate(packets) if packet.is_keyframe]
    return packets[keys[1] :]


def patch(path: Path, box: bytes, offset: int, value: bytes) -> Path:
    """Overwrite bytes of an mp4 file, ``offset`` bytes behind the name of its first ``box``."""
    data = bytearray(path.read_bytes())
    at = data.index(box) + len(box) + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


def matrix(*values: int) -> bytes:
    """A display matrix as the track header of an mp4 file holds it."""
    return struct.pack(">9i", *values)
