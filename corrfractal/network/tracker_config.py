"""Settings of label propagation (III-E2): densities, memory frames, working resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from corrfractal.common.config import Config

from .correspondence import CorrespondenceConfig


@dataclass(frozen=True, kw_only=True)
class TrackerConfig(Config):
    """How labels are propagated at test time; ``tracker.FAST`` is a faster choice."""

    densities: tuple[Annotated[float, Field(ge=1)], ...] = (18.0, 12.0, 6.0, 4.0, 3.0, 2.0)
    """Densities, coarse to fine; the paper's six. A network without multi-density correspondence
    uses only its own."""
    refinement_density: Annotated[float, Field(ge=1)] | None = None
    """Density of the R grid; None uses the network's own (1/2). A larger number is faster and
    coarser."""
    radius: NonNegativeInt | None = None
    """Window radius of Chain_L in cells of its grid; None uses the model's own."""
    density: Annotated[float, Field(ge=1)] | None = None
    """Density of a network without multi-density correspondence; None uses the model's own."""
    follow_motion: bool | None = None
    """Centre windows on the motion of the objects, see ``motion``; None: as the model says."""
    weigh_by_certainty: bool | None = None
    """Count the labels of memory frames by their certainty, see ``certainty``; None: as the model
    says. Key points are not affected."""
    long_term: tuple[NonNegativeInt, ...] = (0, 5)
    """Indices of frames that stay in memory to the end."""
    short_term: tuple[PositiveInt, ...] = (1, 3, 5)
    """Frames in memory by their distance from the target."""
    annotated: NonNegativeInt = 2
    """Number of latest frames with a given mask, after the first frame, that stay in memory
    whatever their distance."""
    soft: bool = False
    """Feed back soft labels instead of hard decisions."""
    resolution: Literal["full", "half"] = "full"
    """``half``: frames are embedded at half their height and width, a quarter of the work."""
    max_pixels: PositiveInt | None = None
    """Larger frames are embedded at a size of at most so many pixels, which bounds memory and time;
    None uses the model's own ``test_pixels``."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the backbone and of embeddings in memory. Affinities and Lab patches are always
    float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.densities or list(self.densities) != sorted(self.densities, reverse=True):
            raise ValueError(f"densities must descend, got {self.densities}")
        if 0 not in self.long_term:
            raise ValueError(f"long_term must hold frame 0, got {self.long_term}")

    def applied_to(self, correspondence: CorrespondenceConfig) -> CorrespondenceConfig:
        """The correspondence module of a model with these settings in place of its own."""
        settings: dict[str, Any] = {}
        if self.refinement_density is not None:
            settings["refinement_density"] = self.refinement_density
        if self.radius is not None:
            settings["test_radius"] = self.radius
        if self.density is not None:
            # Of a single density only the first mean is used; means must ascend.
            settings["density_means"] = (self.density, 2 * self.density)
            settings["test_cells"] = None
        if self.follow_motion is not None:
            settings["follow_motion"] = self.follow_motion
        if self.weigh_by_certainty is not None:
            settings["weigh_by_certainty"] = self.weigh_by_certainty
        return replace(correspondence, **settings).at_test_time


FAST = TrackerConfig(densities=(12.0, 6.0, 4.0), refinement_density=3.0)
"""Three densities and an R grid of 1/3: several times faster on a CPU, coarser at boundaries."""


def working_size(
    height: int, width: int, config: TrackerConfig, model: CorrespondenceConfig | None = None
) -> tuple[int, int]:
    """(H, W) at which frames of a size are embedded; without a model by the defaults of one."""
    model = model or CorrespondenceConfig()
    pixels = config.max_pixels or model.test_pixels
    by_resolution = 2.0 if config.resolution == "half" else 1.0
    by_pixels = math.sqrt(height * width / pixels)
    shrink = max(by_resolution, by_pixels)
    return max(1, round(height / shrink)), max(1, round(width / shrink))


def single_density(height: int, width: int, model: CorrespondenceConfig) -> float:
    """Density of the only grid of frames that are embedded at (H, W)."""
    density = model.density_means[0]
    if model.test_cells is None:
        return density
    return max(density, math.sqrt(height * width / model.test_cells))
