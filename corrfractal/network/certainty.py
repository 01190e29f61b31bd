"""How much a label in memory counts, at test time.

Labels are fed back as hard decisions: a pixel that was decided by a narrow majority would vote as
firmly as the annotation, and its mistakes would spread. With ``weigh_by_certainty`` the votes of a
label in memory are multiplied by its certainty c. It is 1 in annotated frames, and in others the
lead of the winning label over the second,

    s_k(p) = sum over m of  a(p, m) c(m) [label of m is k]
    c(p)   = largest s_k(p) - second largest s_k(p)

where the affinities a sum to 1 over the memory pixels m. The certainty of the votes is part of it,
so doubt adds up along the way from the annotation: where memory frames disagree, those decide that
are closer to it. Tiles with nothing but background within reach are certain (``matching``).

Shapes: K labels, h x w the R grid, or that of the single density.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEVELS = 255
LEAST = 13  # of LEVELS, 0.05: at the end of a long video the annotation would count alone


def certainty_of(parts: Sequence[Tensor]) -> Tensor:
    """Certainty of the labels of a frame.

    Args:
        parts: weighted shares s of some of the labels each, (1, K', h, w).

    Returns:
        uint8 (1, 1, h, w), in 255ths. Whole numbers: where all votes are certain the label is
        certain as well, whatever the rounding of their sum.
    """
    leaders = [part.topk(min(2, part.shape[1]), dim=1).values for part in parts]
    nobody = torch.zeros_like(leaders[0][:, :1])  # the second, if there is a single label
    best = torch.cat((*leaders, nobody), dim=1).topk(2, dim=1).values
    lead = best[:, :1] - best[:, 1:]
    return (lead * LEVELS).round().clamp(LEAST, LEVELS).to(torch.uint8)
