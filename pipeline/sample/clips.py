"""Presentation times -> which frames are sampled; samples in order -> which of them make up which
clip."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.config import ClipConfig

Sample = TypeVar("Sample")

# Of a tick: containers round times to a millisecond, and the last frame must not fall behind
TICK_TOLERANCE = 0.05


def sampled_frames(times: npt.NDArray[np.float64], fps: float) -> npt.NDArray[np.intp]:
    """Indices of the frames nearest to the ticks 0, 1/fps, 2/fps, ...; ascending, each once.

    Args:
        times: presentation times in seconds, float64 (N,), ascending.
        fps: ticks per second. A video with fewer frames per second gives all its frames.
    """
    if len(times) == 0:
        return np.zeros(0, dtype=np.intp)
    ticks = times[0] + np.arange(int((times[-1] - times[0]) * fps + TICK_TOLERANCE) + 1) / fps
    after = np.searchsorted(times, ticks - 1e-6).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    nearer_before = ticks - times[before] < times[after] - ticks - 1e-6
    return np.unique(np.where(nearer_before, before, after))


class ClipCutter(Generic[Sample]):
    """Cuts a stream of samples into clips; holds no more samples than one clip.

    Within a run of neighbouring samples clips start every ``config.step`` samples; a break starts a
    new run.
    """

    def __init__(self, config: ClipConfig) -> None:
        self._config = config
        self._held: deque[Sample] = deque()
        self._skip = 0  # samples until the next clip starts, where clips do not touch
        self._last: float | None = None

    def add(
        self, sample: Sample, seconds: float, *, starts_shot: bool = False
    ) -> list[Sample] | None:
        """Take the next sample; return the clip that it completes, if it does.

        Args:
            sample: anything.
            seconds: its presentation time.
            starts_shot: no clip may span the step from the sample before to this one.
        """
        if starts_shot or (self._last is not None and seconds - self._last > self._config.max_gap):
            self._held.clear()
            self._skip = 0
        self._last = seconds
        if self._skip:
            self._skip -= 1
            return None
        self._held.append(sample)
        if len(self._held) < self._config.frames:
            return None
        clip = list(self._held)
        for _ in range(min(self._config.step, len(clip))):
            self._held.popleft()
        self._skip = max(0, self._config.step - len(clip))
        return clip
