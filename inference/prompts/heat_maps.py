"""Points as soft labels: a Gaussian heat map around each point, and the peak of each map.

Used for key points that a user gives (``propagate --points``) and for the joints of JHMDB. The two
differ on purpose in what happens to a point that is lost:

- JHMDB scores undetected joints separately, so its maps are cut off (``cutoff=CUTOFF``): a joint
  whose map has become exactly 0 has no position (NaN).
- A user wants a position on every frame, with a confidence: maps are not cut off, and an empty map
  still has a peak, of confidence 0 (``floor=FLOOR``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

SIGMA = 4.0  # pixels
CUTOFF = 3.0  # sigmas
TOP = 5  # pixels whose weighted mean is the position
FLOOR = 1e-12


def heat_maps(points: npt.ArrayLike, size: tuple[int, int], *, cutoff: float | None = None) -> F32:
    """Gaussians of height 1 around points, float32 (K, H, W).

    Args:
        points: (K, 2) x, y in pixels. A point far outside leaves its map empty.
        size: (H, W).
        cutoff: in sigmas; a map is exactly 0 beyond it. None: no cut-off.
    """
    height, width = size
    xy = np.asarray(points, dtype=np.float64)
    squared_x = (np.arange(width) - xy[:, :1]) ** 2
    squared_y = (np.arange(height) - xy[:, 1:]) ** 2
    squared = squared_y[:, :, None] + squared_x[:, None, :]

    maps = np.exp(-squared / (2 * SIGMA**2))
    if cutoff is not None:
        maps = np.where(squared <= (cutoff * SIGMA) ** 2, maps, 0)
    return maps.astype(np.float32)


def find_peaks(maps: F32, *, floor: float = 0.0) -> tuple[F64, F32]:
    """Position and height of the peak of each map.

    Args:
        maps: float32 (K, H, W), none negative.
        floor: least weight of a pixel. With 0, an empty map has no position.

    Returns:
        The mean of the ``TOP`` strongest pixels weighted by their strength, float64 (K, 2) x, y,
        NaN without a position; and the height of the strongest, float32 (K,).
    """
    flat = maps.reshape(len(maps), -1)
    count = min(TOP, flat.shape[1])
    strongest = np.argpartition(flat, -count, axis=1)[:, -count:]
    heights = np.take_along_axis(flat, strongest, axis=1)
    weights = np.maximum(heights, floor).astype(np.float64)

    y, x = np.divmod(strongest, maps.shape[2])
    sums = np.stack([(x * weights).sum(axis=1), (y * weights).sum(axis=1)], axis=1)
    total = weights.sum(axis=1)[:, None]
    positions = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
    return positions, heights.max(axis=1)
