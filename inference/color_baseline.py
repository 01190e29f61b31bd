"""Colour-only matching: what the tracker reaches without any learning, the baseline that a trained
network must beat.

The network's embedding is replaced by the Lab colours of 3 x 3 cells around each pixel, 4 pixels
apart; at density 4 that is a patch of 12 x 12 pixels. Everything else (memory frames, restricted
attention, feedback) is the same tracker, at one density and with one affinity, as the siblings of
the paper do it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.labels.color import PATCH_STRIDE, lab_patches
from corrfractal.network.attention import Similarity
from corrfractal.network.correspondence import CorrespondenceConfig

RADIUS = 12  # cells: 48 pixels
TEMPERATURE = 0.0003


class LabPatches(nn.Module):
    """``lab_patches`` in the place of a backbone."""

    def __init__(self) -> None:
        super().__init__()
        # Where the tracker puts its frames
        self.device = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, lab: Tensor) -> Tensor:
        return lab_patches(lab)


def colour_matching() -> CorrFractal:
    """The baseline, ready for use."""
    correspondence = CorrespondenceConfig(
        multi_density=False,
        density_means=(float(PATCH_STRIDE), 2.0 * PATCH_STRIDE),
        radius=RADIUS,
        similarity=Similarity(kind="cosine", temperature=TEMPERATURE),
    )
    model = CorrFractal(CorrFractalConfig(width=4, bottleneck="lab", correspondence=correspondence))
    model.backbone = LabPatches()  # type: ignore[assignment]  # takes what a backbone takes, gives what it gives
    return model.eval()
