"""Settings of propagation and evaluation."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

from corrfractal.common.config import Config, config_to_dict, digest
from corrfractal.network.tracker import TrackerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceConfig(Config):
    """Settings of propagation and evaluation."""

    tracker: TrackerConfig = dataclasses.field(default_factory=TrackerConfig)
    """Densities, memory frames and window of the tracker: everything that changes a mask."""

    workers: Annotated[int, Field(ge=0)] = 0
    """Sequences or videos processed at once, one core each; 0: one for every core."""

    opacity: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Opacity of the object colours in overlays, 0..1."""

    @property
    def digest(self) -> str:
        """SHA-256 of the settings that decide the masks: equal digests give equal masks."""
        return digest(config_to_dict(self.tracker))
