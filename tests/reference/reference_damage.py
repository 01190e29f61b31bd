"""Block edges counted one by one."""

from __future__ import annotations

import cv2
import numpy as np


def block_surplus(image):
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(int)
    on, beside = (edges(grey, first) + edges(grey.T, first) for first in (16, 24))
    return (on - beside) / np.sqrt(on + beside + 4)


def edges(plane, first):
    count = 0
    for x in range(first, plane.shape[1] - 1, 16):
        here = 0
        for y in range(0, plane.shape[0] - 7, 8):
            excess = 0
            for row in plane[y : y + 8]:
                step = abs(row[x] - row[x - 1])
                excess += step - max(abs(row[x - 1] - row[x - 2]), abs(row[x + 1] - row[x]))
            here += excess > 24 * 8
        count += min(here, 3)
    return count
