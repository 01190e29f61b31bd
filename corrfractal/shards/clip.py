"""The stored form of a clip. The pipeline writes it and training reads it, only through this file.

A clip of T frames and V views is one WebDataset sample, consecutive tar members with a common key:

    KEY.f000.jpg ...        frame t, RGB, JPEG quality 95, 4:2:0
    KEY.json                source, frame indices, presentation times, codebooks
    KEY.v0.f000.png ...     pseudo-labels of view v and frame t: palette PNG, 4 bits a pixel,
                            ids 0..15

Any image viewer opens the members, and ``webdataset`` reads the shards directly. Nothing is
pickled.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from corrfractal.common.errors import IntegrityError

U8 = npt.NDArray[np.uint8]

SCHEMA = 4
"""Version of this layout. It is part of every plan's digest: changing it rebuilds all shards."""

JPEG_QUALITY = 95

# 16 well-separated colours. They only help people: readers use the ids.
LABEL_COLORS = np.array(
    [
        [0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 225, 25],
        [0, 130, 200], [245, 130, 48], [145, 30, 180], [70, 240, 240],
        [240, 50, 230], [210, 245, 60], [250, 190, 212], [0, 128, 128],
        [220, 190, 255], [170, 110, 40], [255, 250, 200], [128, 128, 128],
    ],
    dtype=np.uint8,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A stored clip.

    Attributes:
        key: ``<source id>_<clip number>``; without a dot, since WebDataset cuts names at the first.
        frames: uint8 (T, H, W, 3) RGB.
        labels: uint8 (V, T, H, W) pseudo-labels, ids 0..15.
        meta: plain JSON values: source, frame indices, presentation times, codebooks.
    """

    key: str
    frames: U8
    labels: U8
    meta: dict[str, Any]

    def __post_init__(self) -> None:
        # A wrong shape or key would only be noticed by the reader of a finished shard.
        T, H, W, _ = self.frames.shape
        if self.labels.ndim != 4 or self.labels.shape[1:] != (T, H, W):
            raise ValueError(f"labels {self.labels.shape} do not fit frames {self.frames.shape}")
        if "." in self.key or "/" in self.key:
            raise ValueError(f"a clip key holds no dot and no slash, got {self.key!r}")


def encode_clip(clip: Clip) -> dict[str, bytes]:
    """Members of a clip, name -> content, in stored order (sorted by name)."""
    members = {f"{clip.key}.json": json.dumps(clip.meta, sort_keys=True).encode()}
    for t, frame in enumerate(clip.frames):
        members[f"{clip.key}.f{t:03d}.jpg"] = _encode_jpeg(frame)
    for v, view in enumerate(clip.labels):
        for t, labels in enumerate(view):
            members[f"{clip.key}.v{v}.f{t:03d}.png"] = _encode_labels(labels)
    return dict(sorted(members.items()))


def decode_clip(
    members: dict[str, bytes],
    frames: tuple[int, ...] | None = None,
    views: tuple[int, ...] | None = None,
) -> Clip:
    """Decode a clip from its members.

    Args:
        members: name -> content, as from ``read_members``.
        frames: indices of the frames to decode, in the order of the result; default: all.
        views: indices of the views to decode, likewise.

    Raises:
        IntegrityError: a member is missing or damaged; the message names it.
    """
    try:
        # The description says how many frames and views there are, and its name gives the key.
        name = next(name for name in members if name.endswith(".json"))
        key = name.removesuffix(".json")
        meta = json.loads(members[name])
        ts = frames if frames is not None else tuple(range(len(meta["frame_indices"])))
        vs = views if views is not None else tuple(range(len(meta["codebooks"])))
        images = np.stack([_decode_jpeg(members, f"{key}.f{t:03d}.jpg") for t in ts])
        labels = np.stack([_decode_view(members, f"{key}.v{v}", ts) for v in vs])
    except (KeyError, StopIteration, json.JSONDecodeError) as exc:
        raise IntegrityError(
            f"a stored clip lacks a member: {exc}; members: {sorted(members)[:3]} ..."
        ) from exc
    return Clip(key=key, frames=images, labels=labels, meta=meta)


def decode_labels(members: dict[str, bytes], view: int) -> U8:
    """Label maps of one view of a clip, uint8 (T, H, W), without its frames.

    Raises:
        IntegrityError: a member is missing or damaged.
    """
    key = next(iter(members)).partition(".")[0]
    frames = sum(name.startswith(f"{key}.v{view}.") for name in members)
    try:
        return _decode_view(members, f"{key}.v{view}", tuple(range(frames)))
    except (KeyError, ValueError) as exc:
        raise IntegrityError(f"the stored clip {key} lacks label maps of view {view}") from exc


def read_members(block: bytes) -> dict[str, bytes]:
    """Split the stored bytes of one clip into its tar members, name -> content.

    ``tarfile`` is not used: parsing the headers of a clip took it longer than decoding the labels.

    Args:
        block: the bytes at the sidecar's offset and length.

    Raises:
        IntegrityError: the bytes are not a sequence of tar members.
    """
    members: dict[str, bytes] = {}
    position = 0
    while position < len(block):
        start = position + tarfile.BLOCKSIZE
        name, size = _parse_header(block[position:start])
        if name in members or "/" in name:
            raise IntegrityError(f"{name!r} is not a name of a clip's tar member")
        members[name] = block[start : start + size]
        padding = -size % tarfile.BLOCKSIZE
        position = start + size + padding

    # A slice beyond the end is silently short, so a cut block shows only here.
    if position != len(block):
        missing = position - len(block)
        raise IntegrityError(f"the last tar member is cut short: {missing} bytes are missing")
    return members


def _parse_header(header: bytes) -> tuple[str, int]:
    """Name and size of a tar member (POSIX.1-1988 ustar).

    Its checksum is not verified: a reader has checked the SHA-256 of the shard by then.
    """
    try:
        if header[257:262] != b"ustar" or header[156:157] != tarfile.REGTYPE:
            raise ValueError("no header of a regular file")
        name = header[:100].rstrip(b"\0").decode()
        prefix = header[345:500].rstrip(b"\0").decode()
        # int() accepts "-": a negative size would loop forever.
        if not header[124:135].isdigit():
            raise ValueError("a size that is no octal number")
        size = int(header[124:135], 8)
    except ValueError as exc:
        raise IntegrityError(f"not a sequence of tar members: {exc}") from exc
    return f"{prefix}/{name}" if prefix else name, size


def colorize(labels: U8) -> U8:
    """uint8 (...,) label ids -> uint8 (..., 3) RGB."""
    return LABEL_COLORS[labels]


def _encode_jpeg(frame: U8) -> bytes:
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok, "cv2.imencode accepts every uint8 image"
    return bytes(data)


def _decode_jpeg(members: dict[str, bytes], name: str) -> U8:
    try:
        # The same pixels as OpenCV's, in less time; benchmarks/input.py compares decoders.
        image = simplejpeg.decode_jpeg(members[name], "RGB")
    except ValueError as exc:
        raise IntegrityError(f"the stored frame {name} is not a readable JPEG: {exc}") from exc
    return np.asarray(image, dtype=np.uint8)


def _encode_labels(labels: U8) -> bytes:
    """Palette PNG (ISO 15948) of uint8 (H, W) ids 0..15, two pixels a byte, with filter "up".

    PIL takes five times as long and its files are larger.
    """
    # Imported late: it loads the numba compiler, which callers that only read can do without.
    from corrfractal.labels.loops import filtered_rows

    H, W = labels.shape
    rows = np.empty((H, 1 + (W + 1) // 2), dtype=np.uint8)
    filtered_rows(np.ascontiguousarray(labels), rows)
    # Filtered rows are mostly zeros, so run lengths compress them without a search for matches.
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    bit_depth = 4
    color_type = 3  # palette
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", W, H, bit_depth, color_type, 0, 0, 0)),
        (b"PLTE", LABEL_COLORS.tobytes()),
        (b"IDAT", deflate.compress(rows.tobytes()) + deflate.flush()),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, data) for kind, data in chunks)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _decode_view(members: dict[str, bytes], prefix: str, indices: tuple[int, ...]) -> U8:
    """Label maps of one view, uint8 (frames, H, W)."""
    return np.stack([_decode_labels(members, f"{prefix}.f{t:03d}.png") for t in indices])


def _decode_labels(members: dict[str, bytes], name: str) -> U8:
    try:
        with Image.open(io.BytesIO(members[name])) as image:
            return np.array(image, dtype=np.uint8)
    except OSError as exc:
        raise IntegrityError(f"the stored label map {name} is not a readable PNG: {exc}") from exc
