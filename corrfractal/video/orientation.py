"""Orientation of a stored picture: display matrices of videos, EXIF of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """How to turn a decoded picture into the one that is shown: transpose, then flip."""

    transposed: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether it is more than a rotation by quarter turns."""
        return (self.transposed + self.flip_rows + self.flip_columns) % 2 == 1

    def apply(self, image: U8) -> U8:
        """The picture as it is shown: uint8 (H, W, 3) -> uint8 (H, W, 3) or (W, H, 3)."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        if self.flip_rows:
            image = image[::-1]
        if self.flip_columns:
            image = image[:, ::-1]
        return np.ascontiguousarray(image)
