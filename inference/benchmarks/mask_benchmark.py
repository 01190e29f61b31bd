"""What the benchmarks with a mask per frame share: their files, and sizes of frames and masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from inference.prompts.mask_images import encode_mask

from .base import Benchmark, C, T
from .results import S

U8 = npt.NDArray[np.uint8]


class MaskBenchmark(Benchmark[C, U8, S, T]):
    """A benchmark whose predictions are masks, uint8 (H, W): ``<sequence>/<frame>.png``."""

    FOLDER = "masks"

    def files(self, clip: C) -> list[Path]:
        """A palette PNG file per frame."""
        return [Path(clip.name, f"{frame.stem}.png") for frame in clip.frames]

    def encode(self, prediction: U8) -> bytes:
        """Palette PNG."""
        return encode_mask(prediction)


def square_frame(frame: U8, side: int) -> U8:
    """A frame, uint8 (H, W, 3), resized to a square whatever its shape."""
    shrinks = max(frame.shape[:2]) > side
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (side, side), interpolation=interpolation))


def resize_mask(mask: U8, size: tuple[int, ...]) -> U8:
    """A mask, uint8 (H, W), at another size (H, W) by nearest neighbour of pixel centres."""
    if mask.shape == size:
        return mask
    return np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))
