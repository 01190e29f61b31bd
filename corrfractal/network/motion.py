"""Windows centred on the motion of the objects, at test time.

A window reaches a fixed distance around a pixel, while an object may have moved farther since the
memory frame. Every memory frame therefore keeps the centroid of each object. A tile of the target
belongs to the object whose latest centroid is nearest, and its window in memory frame i is moved by
c(i) - c(t-1), rounded to cells: to where the object was. In frame t-1 no window is moved, so fast
motion and objects that were never seen elsewhere cost nothing.

Shapes: K channels, N references, T tiles of ``matching``; h x w a grid. Centroids are (y, x) in
fractions of the frame, NaN for an object that was not seen yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .kernels import TILE
from .matching import tile_grid

SEEN = 1e-6  # share of the frame below which a soft label is absent


def centroids_of_ids(ids: Tensor, channels: Tensor, previous: Tensor) -> Tensor:
    """Centroids of the objects of a mask.

    Args:
        ids: uint8 (H, W) object ids.
        channels: int64 (K,), the id of each channel.
        previous: (K', 2) centroids one frame earlier, K' <= K. An object that is absent keeps its
            own.

    Returns:
        float64 (K, 2).
    """
    H, W = ids.shape
    flat = ids.flatten().long()
    y = (torch.arange(H, dtype=torch.float64, device=ids.device) + 0.5) / H
    x = (torch.arange(W, dtype=torch.float64, device=ids.device) + 0.5) / W
    count = torch.bincount(flat, minlength=256)
    sum_y = torch.bincount(flat, weights=y.repeat_interleave(W), minlength=256)
    sum_x = torch.bincount(flat, weights=x.repeat(H), minlength=256)
    found = torch.stack((sum_y, sum_x), dim=1) / count[:, None]
    return _keep_absent(found[channels], count[channels] > 0, previous)


def centroids_of_maps(q: Tensor, previous: Tensor) -> Tensor:
    """The same for soft labels, (1, K, h, w)."""
    h, w = q.shape[-2:]
    maps = q[0].double()
    y = (torch.arange(h, dtype=torch.float64, device=q.device) + 0.5) / h
    x = (torch.arange(w, dtype=torch.float64, device=q.device) + 0.5) / w
    total = maps.sum(dim=(1, 2))
    sums = torch.stack((maps.sum(dim=2) @ y, maps.sum(dim=1) @ x), dim=1)
    seen = total > SEEN * h * w
    return _keep_absent(sums / total[:, None], seen, previous)


def window_shifts(then: Sequence[Tensor], now: Tensor, size: tuple[int, int]) -> Tensor:
    """How far the window of each tile is moved in each reference.

    Args:
        then: centroids (K', 2) in each of N references, K' <= K: no window is moved for an object
            that a reference does not know.
        now: (K, 2) centroids in frame t-1 of the channels that are objects.
        size: (h, w) of the grid.

    Returns:
        int64 (T, N, 2) cells, for ``matching.match``.
    """
    rows, columns = tile_grid(*size)
    if not len(now):  # there is no object yet
        return torch.zeros(rows * columns, len(then), 2, dtype=torch.int64, device=now.device)
    cells = now.new_tensor(size)
    tops = (torch.arange(rows, device=now.device) + 0.5) * TILE
    lefts = (torch.arange(columns, device=now.device) + 0.5) * TILE
    centres = torch.cartesian_prod(tops, lefts).to(now.dtype)

    known = now.nan_to_num(nan=1e6) * cells
    nearest = torch.cdist(centres, known).argmin(dim=1)
    moved = torch.stack([_padded(each, len(now)) - now for each in then], dim=1)  # (K, N, 2)
    shifts = (moved * cells).nan_to_num(nan=0.0).round().long()
    return shifts[nearest]


def _keep_absent(found: Tensor, seen: Tensor, previous: Tensor) -> Tensor:
    return torch.where(seen[:, None], found, _padded(previous, len(found)))


def _padded(centroids: Tensor, count: int) -> Tensor:
    """Centroids of ``count`` channels; those that were added later are unknown."""
    unknown = centroids.new_full((count - len(centroids), 2), torch.nan)
    return torch.cat((centroids, unknown))
