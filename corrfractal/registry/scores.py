"""Scores of a registered model on an evaluation set, stored on its version.

A score is bound to the model's weights, the files of the set and the settings by their digests. The
gate reads scores only from the version's tags and compares only scores with equal digests.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from corrfractal.common.config import Config, config_from_dict, digest

from .names import SCORES_PREFIX


@dataclass(frozen=True, kw_only=True)
class Scores(Config):
    """J and F (fractions, 0..1) of one model on one evaluation set: one tag of a version."""

    dataset: str
    """Name of the evaluation set, such as ``davis2017-val``."""
    set_digest: str
    """SHA-256 over the set's frames and annotations."""
    settings: str
    """SHA-256 of the settings of the propagation."""
    weights: str
    """SHA-256 of the model file that was scored."""
    sequences: int
    """Number of sequences."""
    objects: int
    """Number of objects; J and F are means over them."""
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
        """Digest of set and settings; scores are comparable only if it is equal."""
        return digest([self.dataset, self.set_digest, self.settings])

    @property
    def tag(self) -> str:
        """Name of the tag; evaluating again on the same basis replaces it."""
        return f"{SCORES_PREFIX}{self.dataset}.{self.basis[:16]}"

    def to_text(self) -> str:
        """JSON, the tag's value."""
        return json.dumps(dataclasses.asdict(self))


def scores_from_text(text: str, where: str) -> Scores:
    """Parse a tag's value; a ``ConfigError`` names ``where``."""
    return config_from_dict(Scores, json.loads(text), where=where)
