"""All clips of a video from its presentation times at once, where the pipeline cuts a stream."""

from __future__ import annotations

import numpy as np

from pipeline.sample.clips import sampled_frames


def clip_frames(times, config):
    """Frame indices of every clip, in order of their starts; times are ascending seconds, float64
    (N,)."""
    sampled = sampled_frames(times, config.fps)
    breaks = np.flatnonzero(np.diff(times[sampled]) > config.max_gap) + 1
    return [
        tuple(run[start : start + config.frames].tolist())
        for run in np.split(sampled, breaks)
        for start in range(0, len(run) - config.frames + 1, config.step)
    ]
