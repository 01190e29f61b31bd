"""A video -> the frames of its clips, scaled, in one sequential pass and with memory for one clip at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corrfractal.decoders import truncation
from corrfractal.errors import VideoError
from corrfractal.video import Video, resize_area

from .clips import clip_frames
from .config import PipelineConfig


@dataclass(frozen=True, kw_only=True)
class RawClip:
    """Frames of a clip before labelling.

    Attributes:
        number: from 0, within the video.
        indices: frame indices in the video.
        seconds: their presentation times.
        frames: uint8 (T, size, size, 3) RGB.
    """

    number: int
    indices: tuple[int, ...]
    seconds: tuple[float, ...]
    frames: npt.NDArray[np.uint8]


def decode_clips(video: Video, config: PipelineConfig) -> Iterator[RawClip]:
    """Clips of a video; nothing, if it is too short for one.

    Raises:
        VideoError: the video is damaged or cut short; what was yielded before is good. Every video is read to its end
            for this, wherever the last clip ends.
    """
    times = video.times()
    clips = clip_frames(times, config.clip)
    wanted = sorted({index for clip in clips for index in clip} | {len(times) - 1})
    images: dict[int, npt.NDArray[np.uint8]] = {}
    number = 0
    for frame in video.frames(wanted):
        images[frame.index] = resize_area(frame.image, config.size, config.size)
        while number < len(clips) and clips[number][-1] <= frame.index:
            indices = clips[number]
            yield RawClip(
                number=number,
                indices=indices,
                seconds=tuple(round(float(times[i]), 4) for i in indices),
                frames=np.stack([images[i] for i in indices]),
            )
            number += 1
        first = clips[number][0] if number < len(clips) else len(times)
        images = {index: image for index, image in images.items() if index >= first}
    path = Path(video.info.path)
    reason = None if path.is_dir() else truncation(path, video.info, float(times[-1]))
    if reason is not None:
        raise VideoError(str(path), "decode", reason, len(times))
