"""A video -> the frames of its clips, scaled, in one sequential pass. Memory use is one clip,
independent of video length."""

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

MOTION_SIDE = 64  # pixels; height and width of the grey pictures on which motion is measured


@dataclass(frozen=True, kw_only=True)
class RawClip:
    """Frames of a clip before labelling.

    Attributes:
        number: from 0, within the segment.
        indices: frame indices in the video.
        seconds: presentation times of the frames.
        frames: uint8 (T, size, size, 3) RGB.
    """

    number: int
    indices: tuple[int, ...]
    seconds: tuple[float, ...]
    frames: npt.NDArray[np.uint8]


@dataclass(kw_only=True)
class Tally:
    """Counts of one decoding pass.

    Attributes:
        cuts: shot cuts.
        static: clips left out because their motion is below ``min_motion``.
    """

    cuts: int = 0
    static: int = 0


def decode_clips(
    video: Video,
    config: PipelineConfig,
    start: float = 0.0,
    stop: float = math.inf,
    tally: Tally | None = None,
) -> Iterator[RawClip]:
    """Decode the clips of a video, or of its segment from ``start`` up to ``stop``.

    Args:
        video: open.
        config: how to sample and cut.
        start, stop: seconds of presentation time.
        tally: counts are added to it.

    Yields:
        Clips in order; none if the video or segment is too short for one.

    Raises:
        VideoError: the video is damaged or cut short; clips yielded before are good. The segment is
            decoded up to its last frame, so damage after its last clip is found too.
    """
    tally = Tally() if tally is None else tally

    # 1. Choose frames. Ticks start at the first frame of the segment, so that segments are
    #    independent tasks.
    times = video.times()
    first, end = np.searchsorted(times, (start, stop))
    wanted = set((first + sampled_frames(times[first:end], config.clip.fps)).tolist())
    last = min(int(end), len(times)) - 1

    # 2. Decode, scale, and hand each sample to the cutter.
    cutter = ClipCutter[Frame](config.clip)
    detector = CutDetector(config.clip.cut_threshold)
    number = 0
    for frame in video.frames(sorted(wanted | {last})):
        if frame.index not in wanted:
            continue
        image = resize_area(frame.image, config.size, config.size)
        starts_shot = detector.starts_shot(image)
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
    """Mean absolute difference of consecutive frames in grey levels, on small pictures."""
    size = (MOTION_SIDE, MOTION_SIDE)
    small = []
    for frame in clip:
        grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        small.append(cv2.resize(grey, size, interpolation=cv2.INTER_AREA))
    # Signed, so that differences do not wrap around.
    differences = np.diff(np.stack(small).astype(np.int16), axis=0)
    return float(np.abs(differences).mean())
