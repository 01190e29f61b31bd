"""What can be set when a trained model is used."""

from __future__ import annotations

import dataclasses

from corrfractal.common.config import Config, config_to_dict, digest
from corrfractal.network.tracker import TrackerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceConfig(Config):
    """Settings of propagation and evaluation."""

    tracker: TrackerConfig = dataclasses.field(default_factory=TrackerConfig)
    """Densities, memory frames and window of the label propagation: everything that changes a mask.
    """

    workers: int = 0
    """Sequences evaluated at once, one core each; 0 is one for every core."""

    opacity: float = 0.5
    """Strength of the object colours in overlays, 0..1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 0:
            raise ValueError(f"workers is 0 or more, got {self.workers}")
        if not 0 <= self.opacity <= 1:
            raise ValueError(f"opacity lies between 0 and 1, got {self.opacity}")

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the masks: equal digests give equal masks."""
        return digest(config_to_dict(self.tracker))
