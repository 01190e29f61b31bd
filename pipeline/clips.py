"""Presentation times -> which frames make up which clip. Pure arithmetic."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .config import ClipConfig

TICK_TOLERANCE = 0.05  # of a tick: containers round times to a millisecond, and the last frame must not fall behind


def sampled_frames(times: npt.NDArray[np.float64], fps: float) -> npt.NDArray[np.intp]:
    """Indices of the frames nearest to the ticks 0, 1/fps, 2/fps, ...; ascending, each once.

    Args:
        times: presentation times in seconds, float64 (N,), N >= 1, ascending.
        fps: ticks per second. A video with fewer frames per second gives all its frames.
    """
    ticks = times[0] + np.arange(int((times[-1] - times[0]) * fps + TICK_TOLERANCE) + 1) / fps
    after = np.searchsorted(times, ticks - 1e-6).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    nearer_before = ticks - times[before] < times[after] - ticks - 1e-6
    return np.unique(np.where(nearer_before, before, after))


def clip_frames(times: npt.NDArray[np.float64], config: ClipConfig) -> list[tuple[int, ...]]:
    """Frame indices of every clip of a video, in order of their starts; empty if it is too short for one.

    Args:
        times: presentation times in seconds, float64 (N,), ascending.
        config: length, rate and hop of clips, and the gap that none may span.
    """
    if len(times) == 0:
        return []
    sampled = sampled_frames(times, config.fps)
    breaks = np.flatnonzero(np.diff(times[sampled]) > config.max_gap) + 1
    return [
        tuple(run[start : start + config.frames].tolist())
        for run in np.split(sampled, breaks)
        for start in range(0, len(run) - config.frames + 1, config.step)
    ]
