"""Which frames of a video are sampled, and which samples make up a clip."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.config import ClipConfig

Sample = TypeVar("Sample")

# Share of a tick. Containers round times to a millisecond; without a tolerance the last frame of a
# video could fall just before the last tick.
TICK_TOLERANCE = 0.05
# Seconds; two times closer than this are equal but for rounding.
TIME_TOLERANCE = 1e-6


def sampled_frames(times: npt.NDArray[np.float64], fps: float) -> npt.NDArray[np.intp]:
    """Indices of the frames nearest to the ticks 0, 1/fps, 2/fps, ... after the first frame.

    Args:
        times: presentation times in seconds, float64 (N,), ascending.
        fps: ticks per second. A video with fewer frames per second gives all its frames.

    Returns:
        intp (M,), ascending, without repetition.
    """
    if len(times) == 0:
        return np.zeros(0, dtype=np.intp)
    tick_count = int((times[-1] - times[0]) * fps + TICK_TOLERANCE) + 1
    ticks = times[0] + np.arange(tick_count) / fps

    # The frames on both sides of each tick; of two at the same distance, the later one.
    after = np.searchsorted(times, ticks - TIME_TOLERANCE).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    nearer_before = ticks - times[before] < times[after] - ticks - TIME_TOLERANCE
    return np.unique(np.where(nearer_before, before, after))


class ClipCutter(Generic[Sample]):
    """Cuts a stream of samples into clips; memory use is at most one clip.

    A *run* is a sequence of samples without a gap or a shot cut. Within a run clips start every
    ``config.step`` samples; clips do not span two runs.
    """

    def __init__(self, config: ClipConfig) -> None:
        self._config = config
        self._held: deque[Sample] = deque()
        self._skip = 0  # samples to drop before the next clip starts, if hop > frames
        self._last_seconds: float | None = None

    def add(
        self, sample: Sample, seconds: float, *, starts_shot: bool = False
    ) -> list[Sample] | None:
        """Take the next sample; return the clip that it completes, if any.

        Args:
            sample: anything.
            seconds: its presentation time.
            starts_shot: whether a shot cut separates it from the sample before.
        """
        last = self._last_seconds
        gap = last is not None and seconds - last > self._config.max_gap
        self._last_seconds = seconds
        if starts_shot or gap:
            self._held.clear()
            self._skip = 0

        if self._skip:
            self._skip -= 1
            return None
        self._held.append(sample)
        if len(self._held) < self._config.frames:
            return None

        # Keep the samples that the next clip shares, or skip up to where it starts.
        clip = list(self._held)
        for _ in range(min(self._config.step, len(clip))):
            self._held.popleft()
        self._skip = max(0, self._config.step - len(clip))
        return clip
