"""Track the masks of a first frame through any sequence of images: the loop of the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from inference.config import InferenceConfig
from inference.protocols import U8, Model


@dataclass(frozen=True, kw_only=True)
class Step:
    """A frame, uint8 (H, W, 3) RGB; its mask, uint8 (H, W) object ids; the seconds it took."""

    frame: U8
    mask: U8
    seconds: float


def track(
    images: Iterable[U8], first_mask: U8, model: Model, config: InferenceConfig
) -> Iterator[Step]:
    """Yield a step for every frame; that of the first holds ``first_mask``.

    Args:
        images: uint8 (H, W, 3) RGB, all of one size.
        first_mask: uint8 (H, W) object ids of the first image.
    """
    frames = iter(images)
    first = next(frames)
    tracker = model.tracker(first, first_mask, config.tracker)
    # The first frame is annotated: nothing is predicted, and it costs no time.
    yield Step(frame=first, mask=first_mask, seconds=0.0)

    for frame in frames:
        started = time.perf_counter()
        mask = tracker.step(frame)
        yield Step(frame=frame, mask=mask, seconds=time.perf_counter() - started)
