"""Fractal affinity (III-D.1, Fig. 4, eqs. 3-7): affinities chained by their own output.

One step carries labels *and embedding* of the reference to the target grid:

    (f', q') = A(f, f_t) . (f, q)                                                      eqs. 4 and 5

Both are now on the target grid, so the next step searches with f' around the same pixel (eqs. 6 and
7). Two steps with 11 x 11 windows reach as far as one with 21 x 21, at twice the cost of one 11 x
11 step instead of four times. The target embedding f_t is the attractor F* (eq. 3) of every step.

Shapes: B batch, N references, C embedding channels, K labels, h x w a reduced grid.

Deviation from the paper: none. With several references, which it leaves open, all share one softmax
in the first step; after it there is a single map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .attention import Similarity


def chain(
    f: Tensor,
    q: Tensor,
    f_t: Tensor,
    radius: int,
    steps: int = 2,
    similarity: Similarity | None = None,
    shifts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Carry embedding and labels of the references to the target, ``steps`` affinities in a row.

    Args:
        f: (B, N, C, h, w) embeddings of N references.
        q: (B, N, K, h, w) their labels, one-hot or soft.
        f_t: (B, C, h, w) embedding of the target, the attractor.
        radius: window radius of every step.
        steps: number of affinities; the paper found 2 best of 1 to 4.
        similarity: of embeddings; None uses ``Similarity()``.
        shifts: how far the windows of the first step are moved, see ``matching.match``. At test
            time only: there is no gradient.

    Returns:
        f, (B, C, h, w), and q, (B, K, h, w), on the target grid.
    """
    if similarity is None:
        similarity = Similarity()
    channels = (f.shape[2], q.shape[2])
    for step in range(steps):
        # One softmax carries f and q together: the affinity is computed once.
        value = torch.cat((f, q), dim=2)
        if shifts is not None and step == 0:
            carried = similarity.match(f_t, f, value, radius, shifts)
        else:
            carried = similarity.attend(f_t, f, value, radius)
        f, q = carried[:, None].split(channels, dim=2)
    return f[:, 0], q[:, 0]
