"""The score of a registered model on an evaluation set, bound to both by digests. Evaluation notes
it on the version, the gate of the registry reads it there: no loose file comes between, and unlike
is never compared with like.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from corrfractal.common.config import Config, config_from_dict, digest

PREFIX = "scores."


@dataclass(frozen=True, kw_only=True)
class Scores(Config):
    """J and F, fractions 0..1, of one model on one evaluation set. Stored as a tag of the model's
    version."""

    dataset: str
    """Name of the evaluation set, such as ``davis2017-val``."""
    set_digest: str
    """SHA-256 over its frames and annotations."""
    settings: str
    """SHA-256 of the settings of the propagation."""
    weights: str
    """SHA-256 of the model file that was scored."""
    sequences: int
    """Number of sequences."""
    objects: int
    """Number of objects, over which the means are taken."""
    J: float
    """Mean region similarity."""
    F: float
    """Mean contour accuracy."""
    at: str
    """When, ISO 8601, UTC."""

    @property
    def JF(self) -> float:  # noqa: N802
        """J&F."""
        return (self.J + self.F) / 2

    @property
    def basis(self) -> str:
        """What must be equal for two scores to be comparable: set and settings."""
        return digest([self.dataset, self.set_digest, self.settings])

    @property
    def tag(self) -> str:
        """Name of the tag; scoring again in the same way replaces it."""
        return f"{PREFIX}{self.dataset}.{self.basis[:16]}"

    def to_text(self) -> str:
        """JSON, the tag's value."""
        return json.dumps(dataclasses.asdict(self))


def scores_from_text(text: str, where: str) -> Scores:
    """Read a tag's value back; ConfigError names ``where``."""
    return config_from_dict(Scores, json.loads(text), where=where)
