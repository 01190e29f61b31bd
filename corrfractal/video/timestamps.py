"""Presentation times of frames: repaired where a file stores none, or times that do not ascend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

# Image files carry no clock; DAVIS and YouTube-VOS were recorded at about this rate.
FOLDER_FPS = 24.0

# A clock that jumps back by more than this many usual gaps was restarted.
RESTART_GAPS = 4


def mean_fps(times: F64) -> float:
    """Frames per second of presentation times that ascend from 0."""
    return round((len(times) - 1) / float(times[-1]), 3) if len(times) > 1 else FOLDER_FPS


def ascending_times(decoded: Sequence[float | None], gap: float) -> F64:
    """Presentation times in seconds, strictly ascending from 0, float64 (frames,).

    A clock that falls back by several frames was restarted: the times after that point are moved
    behind those before it. Other times that are missing or do not ascend are replaced: they are
    spread evenly up to the next ascending one, in steps of at most the usual gap.

    Args:
        decoded: as decoded; None for a frame without a time.
        gap: seconds between frames according to the header, for a file without any times.
    """
    times = np.array([np.nan if time is None else time for time in decoded], dtype=np.float64)
    gaps = np.diff(times[~np.isnan(times)])
    usual = float(np.median(gaps[gaps > 0])) if np.any(gaps > 0) else gap
    if np.isnan(times[0]):
        times[0] = 0.0
    times -= times[0]

    position = 1
    while position < len(times):
        before = times[position - 1]
        if times[position] > before:
            position += 1
            continue
        if before - times[position] > RESTART_GAPS * usual:
            times[position:] += before + usual - times[position]
            continue

        # Comparisons with NaN are False, so missing times are part of the run that is replaced.
        end = position
        while end < len(times) and not times[end] > before:
            end += 1
        step = usual
        if end < len(times):
            step = min(usual, float(times[end] - before) / (end - position + 1))
        times[position:end] = before + step * np.arange(1, end - position + 1)
        position = end
    return times
