"""Was a file cut short? Where the container survives it no decoder says so: what was read is set beside the header."""

from __future__ import annotations

import struct
from pathlib import Path

from corrfractal.decoders import VideoInfo

TAIL_SECONDS = 0.25  # headers are rounded; a shorter missing end is not taken for truncation


def truncation(info: VideoInfo, seconds: float) -> str | None:
    """Why a file that decoded without an error was nevertheless cut short, or None.

    Args:
        info: as its reader gave it.
        seconds: presentation time of its last frame.
    """
    path = Path(info.path)
    with path.open("rb") as file:
        head = file.read(12)
    if len(head) == 12 and head[:4] == b"RIFF":
        promised = struct.unpack("<I", head[4:8])[0] + 8
        if promised > path.stat().st_size:
            return f"the file is cut short: {path.stat().st_size} of {promised} bytes"
    if info.declared is not None and info.declared - seconds > TAIL_SECONDS + 1.5 / info.fps:
        return f"the file is cut short: the last frame is at {seconds:.2f} s of {info.declared:.2f} s"
    return None
