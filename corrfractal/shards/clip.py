"""What a stored clip is. The pipeline writes it, training reads it; this file is the whole of
their agreement.

A clip of T frames and V views is one WebDataset sample, a run of tar members with a common key:

    KEY.f000.jpg ...        frame t, RGB, JPEG quality 95, 4:2:0
    KEY.json                source, frame indices, presentation times, codebooks
    KEY.v0.f000.png ...     pseudo-labels of view v and frame t, PNG with palette, 4 bits a pixel, ids 0..15

Any image viewer opens the members; ``webdataset`` reads the shards as they are. Nothing is
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
from PIL import Image

from corrfractal.common.errors import IntegrityError

U8 = npt.NDArray[np.uint8]

SCHEMA = 3
"""Version of this layout. It is part of every plan's digest: changing it re-makes all shards."""

JPEG_QUALITY = 95

# 16 well-separated colours, for people: the ids are what counts.
LABEL_COLORS = np.array(
    [
        [0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 225, 25], [0, 130, 200], [245, 130, 48], [145, 30, 180],
        [70, 240, 240], [240, 50, 230], [210, 245, 60], [250, 190, 212], [0, 128, 128], [220, 190, 255],
        [170, 110, 40], [255, 250, 200], [128, 128, 128],
    ],
    dtype=np.uint8,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A stored clip.

    Attributes:
        key: ``<source id>_<clip number>``; no dot, since WebDataset cuts names at the first one.
        frames: uint8 (T, H, W, 3) RGB.
        labels: uint8 (V, T, H, W) pseudo-labels, ids 0..15.
        meta: plain JSON values: source, frame indices, presentation times, codebooks.
    """

    key: str
    frames: U8
    labels: U8
    meta: dict[str, Any]

    def __post_init__(self) -> None:
        T, H, W, _ = self.frames.shape
        if self.labels.ndim != 4 or self.labels.shape[1:] != (T, H, W):
            raise ValueError(f"labels {self.labels.shape} do not fit frames {self.frames.shape}")
        if "." in self.key or "/" in self.key:
            raise ValueError(f"a clip key holds no dot and no slash, got {self.key!r}")


def encode_clip(clip: Clip) -> dict[str, bytes]:
    """Members of a clip, name -> contents, in the order in which they are stored (sorted by name)."""
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
    """Read a clip back from its members; of the frames and views, only those named (default: all)
    are decoded.

    Raises:
        IntegrityError: a member is missing or damaged; its name is in the message.
    """
    try:
        name = next(name for name in members if name.endswith(".json"))
        key = name.removesuffix(".json")
        meta = json.loads(members[name])
        ts = frames if frames is not None else tuple(range(len(meta["frame_indices"])))
        vs = views if views is not None else tuple(range(len(meta["codebooks"])))
        images = np.stack([_decode_jpeg(members, f"{key}.f{t:03d}.jpg") for t in ts])
        labels = np.stack(
            [[_decode_labels(members, f"{key}.v{v}.f{t:03d}.png") for t in ts] for v in vs]
        )
    except (KeyError, StopIteration, json.JSONDecodeError) as exc:
        raise IntegrityError(
            f"a stored clip lacks a member: {exc}; members: {sorted(members)[:3]} ..."
        ) from exc
    return Clip(key=key, frames=images, labels=labels, meta=meta)


def read_members(block: bytes) -> dict[str, bytes]:
    """Members of one clip from its bytes in the tar, as the sidecar's offset and length give them.

    Raises:
        IntegrityError: the bytes are not a run of tar members.
    """
    members, at = {}, 0
    while at < len(block):
        name, size = _header(block[at : at + tarfile.BLOCKSIZE])
        start = at + tarfile.BLOCKSIZE
        if name in members or "/" in name:
            raise IntegrityError(f"a tar member is called {name!r}, as none of a clip's is")
        members[name] = block[start : start + size]
        at = start + size + -size % tarfile.BLOCKSIZE
    if at != len(block):
        raise IntegrityError(
            f"the last of its members is cut short, {at - len(block)} bytes are missing"
        )
    return members


def _header(header: bytes) -> tuple[str, int]:
    """Name and size of a member (POSIX.1-1988 ustar). ``tarfile`` takes longer over a clip's
    headers than decoding its labels takes; it also checks their sums, but a shard's SHA-256 has
    been checked by then."""
    try:
        if header[257:262] != b"ustar" or header[156:157] != tarfile.REGTYPE:
            raise ValueError("no header of a regular file")
        name, prefix = (part.rstrip(b"\0").decode() for part in (header[:100], header[345:500]))
        # int() takes a sign too: a member before the one at hand, for ever
        if not header[124:135].isdigit():
            raise ValueError("a size that is no octal number")
        return f"{prefix}/{name}" if prefix else name, int(header[124:135], 8)
    except ValueError as exc:
        raise IntegrityError(f"not a run of tar members: {exc}") from exc


def colorize(labels: U8) -> U8:
    """uint8 (...,) label ids -> uint8 (..., 3) RGB."""
    return LABEL_COLORS[labels]


def _encode_jpeg(frame: U8) -> bytes:
    ok, data = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert ok, "cv2.imencode refuses no uint8 image"
    return bytes(data)


def _decode_jpeg(members: dict[str, bytes], name: str) -> U8:
    image = cv2.imdecode(np.frombuffer(members[name], dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise IntegrityError(f"the stored frame {name} is not a readable JPEG")
    return np.asarray(image, dtype=np.uint8)


def _encode_labels(labels: U8) -> bytes:
    """PNG (ISO 15948) by hand: two pixels a byte, each row less the one above it, run lengths; PIL
    takes five times as long to find a larger file."""
    from corrfractal.labels.loops import (
        filtered_rows,  # late: who only reads samples does without the compiler
    )

    H, W = labels.shape
    rows = np.empty((H, 1 + (W + 1) // 2), dtype=np.uint8)
    filtered_rows(np.ascontiguousarray(labels), rows)
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", W, H, 4, 3, 0, 0, 0)),  # 4 bits, palette
        (b"PLTE", LABEL_COLORS.tobytes()),
        (b"IDAT", deflate.compress(rows.tobytes()) + deflate.flush()),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _decode_labels(members: dict[str, bytes], name: str) -> U8:
    try:
        with Image.open(io.BytesIO(members[name])) as image:
            return np.array(image, dtype=np.uint8)
    except OSError as exc:
        raise IntegrityError(f"the stored label map {name} is not a readable PNG: {exc}") from exc
