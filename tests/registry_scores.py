"""Scores of a registered version for tests."""

from __future__ import annotations

from dataclasses import replace

from corrfractal.registry.scores import Scores
from corrfractal.registry.versions import ModelVersion


def scores_of(version: ModelVersion, **changes: object) -> Scores:
    scores = Scores(
        dataset="davis2017-val",
        set_digest="a" * 64,
        settings="b" * 64,
        weights=version.weights_sha256,
        sequences=7,
        objects=8,
        J=0.5,
        F=0.75,
        at="2026-01-01T00:00:00+00:00",
    )
    return replace(scores, **changes)  # type: ignore[arg-type]
