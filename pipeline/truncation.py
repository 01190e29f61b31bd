"""Was a file cut short? Where the container survives it no decoder says so: what was read is set beside the header."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from corrfractal.decoders import VideoInfo

TAIL_SECONDS = 0.25  # headers are rounded; a shorter missing end is not taken for truncation


def truncation(path: Path, info: VideoInfo, seconds: float) -> str | None:
    """Why a file that decoded without an error was nevertheless cut short, or None.

    Args:
        path: the file.
        info: as its reader gave it.
        seconds: presentation time of its last frame.
    """
    import av

    with path.open("rb") as file:
        head = file.read(12)
    if len(head) == 12 and head[:4] == b"RIFF":
        promised = struct.unpack("<I", head[4:8])[0] + 8
        if promised > path.stat().st_size:
            return f"the file is cut short: {path.stat().st_size} of {promised} bytes"
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            length = _declared_seconds(container)
    except av.FFmpegError:
        return None  # another decoder has read it whole
    if length is not None and length - seconds > TAIL_SECONDS + 1.5 / info.fps:
        return f"the file is cut short: the last frame is at {seconds:.2f} s of {length:.2f} s"
    return None


def _declared_seconds(container: Any) -> float | None:
    """Length of the video stream by the header. The container's own counts only without sound, which may be longer."""
    stream = container.streams.video[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None
