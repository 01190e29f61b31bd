"""Colour-only matching: what the tracker reaches without any learning, the rival that a trained network must beat.

The network's embedding is replaced by the Lab colours of 3 x 3 cells around each pixel, 4 pixels apart; at density 4
that is a patch of 12 x 12 pixels. Everything else (memory frames, restricted attention, feedback) is the same tracker,
at one density and with one affinity, as the siblings of the paper do it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.attention import Similarity
from corrfractal.correspondence import CorrespondenceConfig

STRIDE = 4
RADIUS = 12  # cells: 48 pixels
TEMPERATURE = 0.0003
OFFSET = 4.0


class LabPatches(nn.Module):
    """(B, 3, H, W) Lab, scaled as ``CorrFractal.embed`` does -> (B, 28, H, W): nine cells of a patch and a constant.

    With the constant, the cosine of two patches falls with the distance of their colours, brightness included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(OFFSET), requires_grad=False)

    def forward(self, lab: Tensor) -> Tensor:
        H, W = lab.shape[-2:]
        padded = F.pad(lab, (STRIDE, STRIDE, STRIDE, STRIDE), mode="replicate")
        cells = [padded[..., y : y + H, x : x + W] for y in (0, STRIDE, 2 * STRIDE) for x in (0, STRIDE, 2 * STRIDE)]
        return torch.cat([*cells, self.offset.expand(lab.shape[0], 1, H, W)], dim=1)


def colour_matching() -> CorrFractal:
    """The baseline, ready for use."""
    correspondence = CorrespondenceConfig(
        multi_density=False,
        density_means=(float(STRIDE), 2.0 * STRIDE),
        radius=RADIUS,
        similarity=Similarity(kind="cosine", temperature=TEMPERATURE),
    )
    model = CorrFractal(CorrFractalConfig(width=4, bottleneck="lab", correspondence=correspondence))
    model.backbone = LabPatches()  # type: ignore[assignment]  # takes what a backbone takes, gives what it gives
    return model.eval()
