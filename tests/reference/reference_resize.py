"""Area averaging pixel by pixel: each output pixel is the mean of the part of the image that it
covers."""

from __future__ import annotations

from math import ceil, floor

import numpy as np


def slow_area_mean(image, height, width):
    H, W, _ = image.shape
    out = np.empty((height, width, 3), dtype=int)
    for y in range(height):
        for x in range(width):
            top, bottom, left, right = (
                y * H / height,
                (y + 1) * H / height,
                x * W / width,
                (x + 1) * W / width,
            )
            total, area = np.zeros(3), 0.0
            for j in range(floor(top), min(H, ceil(bottom))):
                for i in range(floor(left), min(W, ceil(right))):
                    share = (min(j + 1, bottom) - max(j, top)) * (min(i + 1, right) - max(i, left))
                    total, area = total + share * image[j, i], area + share
            out[y, x] = np.floor(total / area + 0.5)
    return out
