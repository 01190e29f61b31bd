"""A video -> the frames of its clips, scaled, in one sequential pass and with memory for one clip
at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from corrfractal.video import Video, resize_area
from corrfractal.video.decoders import Frame
from pipeline.config import PipelineConfig

from .clips import ClipCutter, sampled_frames
from .cuts import CutDetector

MOTION_SIDE = 64  # pixels, of the grey pictures on which motion is measured


@dataclass(frozen=True, kw_only=True)
class RawClip:
    """Frames of a clip before labelling.

    Attributes:
        number: from 0, within the segment.
        indices: frame indices in the video.
        seconds: their presentation times.
        frames: uint8 (T, size, size, 3) RGB.
    """

    number: int
    indices: tuple[int, ...]
    seconds: tuple[float, ...]
    frames: npt.NDArray[np.uint8]


@dataclass(kw_only=True)
class Tally:
    """What was found while decoding: shot cuts, and clips left out because next to nothing moves in them."""

    cuts: int = 0
    static: int = 0


def decode_clips(
    video: Video,
    config: PipelineConfig,
    start: float = 0.0,
    stop: float = math.inf,
    tally: Tally | None = None,
) -> Iterator[RawClip]:
    """Clips of a video, or of its segment from ``start`` up to ``stop``; nothing, if that is too
    short for one.

    Args:
        video: open.
        config: how to sample and cut.
        start, stop: seconds of presentation time.
        tally: counts what is met.

    Raises:
        VideoError: the video is damaged or cut short; what was yielded before is good. A segment is
            read to its end for this, wherever its last clip ends.
    """
    tally = Tally() if tally is None else tally
    times = video.times()
    first, end = np.searchsorted(times, (start, stop))
    wanted = set((first + sampled_frames(times[first:end], config.clip.fps)).tolist())
    last = min(int(end), len(times)) - 1
    cutter = ClipCutter[Frame](config.clip)
    shots, number = CutDetector(config.clip.cut_threshold), 0
    for frame in video.frames(sorted(wanted | {last})):
        if frame.index not in wanted:
            continue
        image = resize_area(frame.image, config.size, config.size)
        starts_shot = shots.starts_shot(image)
        tally.cuts += starts_shot
        sample = Frame(index=frame.index, seconds=frame.seconds, image=image)
        clip = cutter.add(sample, frame.seconds, starts_shot=starts_shot)
        if clip is None:
            continue
        if config.clip.min_motion > 0 and motion(clip) < config.clip.min_motion:
            tally.static += 1
            continue
        yield RawClip(
            number=number,
            indices=tuple(sample.index for sample in clip),
            seconds=tuple(round(sample.seconds, 4) for sample in clip),
            frames=np.stack([sample.image for sample in clip]),
        )
        number += 1


def motion(clip: list[Frame]) -> float:
    """Mean absolute difference between consecutive frames in grey levels, on small pictures."""
    small = [
        cv2.resize(
            cv2.cvtColor(f.image, cv2.COLOR_RGB2GRAY),
            (MOTION_SIDE, MOTION_SIDE),
            interpolation=cv2.INTER_AREA,
        )
        for f in clip
    ]
    return float(np.abs(np.diff(np.stack(small).astype(np.int16), axis=0)).mean())
