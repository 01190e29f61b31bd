"""What a player shows of a video file, the slow and simple way: decode everything by PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Shown:
    """A shown frame: presentation time in seconds (None: the file has no clock), uint8 RGB."""

    seconds: float | None
    image: npt.NDArray[np.uint8]


def shown_frames(path: Path) -> list[Shown]:
    """All frames of the track that FFmpeg chooses, as stored (not turned upright)."""
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        assert stream is not None
        shown = []
        for frame in container.decode(stream):
            rgb = frame.reformat(format="rgb24", interpolation="BICUBIC")
            seconds = None if frame.time is None else float(frame.time)
            shown.append(Shown(seconds, rgb.to_ndarray()))
        return shown
