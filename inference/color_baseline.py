"""Colour-only matching: the baseline that a trained network must beat.

The network's embedding is replaced by the Lab colours of 3 x 3 cells around each pixel, 4 pixels
apart; at density 4 that is a patch of 12 x 12 pixels. Everything else (memory frames, restricted
attention, feedback of masks) is the same tracker, at one density and with one affinity, as in the
methods that the paper compares with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.labels.color import PATCH_STRIDE, lab_patches
from corrfractal.network.attention import Similarity
from corrfractal.network.correspondence import CorrespondenceConfig
from corrfractal.network.embedder import lab_patches_on_grid

RADIUS = 12  # cells: 48 pixels
TEMPERATURE = 0.0003
# Frames and windows as the starter model's, which it is compared with (scripts/starter.toml)
PIXELS = 854 * 480
CELLS = 142 * 80


class LabPatches(nn.Module):
    """Colour patches in place of the backbone: Lab (B, 3, H, W) -> (B, 28, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        # The tracker moves its frames to the device of the model's first parameter.
        self.device = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, lab: Tensor) -> Tensor:
        return lab_patches(lab)

    def on_grids(self, lab: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The patches reduced to each size."""
        return [lab_patches_on_grid(lab, size) for size in sizes]

    def for_inference(self) -> LabPatches:
        """Itself: there are no weights to prepare."""
        return self


def colour_matching() -> CorrFractal:
    """The colour-only model, in evaluation mode."""
    correspondence = CorrespondenceConfig(
        multi_density=False,
        density_means=(float(PATCH_STRIDE), 2.0 * PATCH_STRIDE),
        radius=RADIUS,
        test_pixels=PIXELS,
        test_cells=CELLS,
        follow_motion=True,
        weigh_by_certainty=True,
        similarity=Similarity(kind="cosine", temperature=TEMPERATURE),
    )
    model = CorrFractal(CorrFractalConfig(width=4, bottleneck="lab", correspondence=correspondence))
    # The attribute is typed as a backbone; only its call is used.
    model.backbone = LabPatches()  # type: ignore[assignment]
    return model.eval()
