"""Scores of a registered model on an evaluation set, stored on its version.

A score is bound to the model's weights, the files of the set and the settings by their digests. The
gate reads scores only from the version's tags and compares only scores with equal digests.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corrfractal.common.config import Config, config_from_dict, digest

from .mlflow_errors import mlflow_errors
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


def log_scores(
    run_id: str, registered: tuple[str, str], scores: Scores, document: Mapping[str, Any]
) -> None:
    """Store scores as a tag of a version, which the gate reads, and as ``log_measures`` does.

    Args:
        run_id: run that trained the version.
        registered: (name, version).
        scores: what the gate compares.
        document: contents of ``scores.json``.

    Raises:
        CorrFractalError: the store refuses or does not answer.
    """
    import mlflow

    with mlflow_errors(model=f"models:/{registered[0]}/{registered[1]}"):
        mlflow.MlflowClient().set_model_version_tag(*registered, scores.tag, scores.to_text())
    measures = {"J": scores.J, "F": scores.F, "JF": scores.JF, "sequences": scores.sequences}
    log_measures(run_id, registered, scores.dataset, measures, document, scores.tag)


def log_measures(
    run_id: str,
    registered: tuple[str, str],
    dataset: str,
    measures: Mapping[str, float],
    document: Mapping[str, Any],
    name: str | None = None,
) -> None:
    """Store measures as metrics of a version's run, and ``scores.json`` as its artefact.

    Args:
        run_id: run that trained the version.
        registered: (name, version).
        dataset: prefix of the metrics, as in ``davis2017-val/J``.
        measures: name -> value.
        document: contents of ``scores.json``.
        name: of the artefact, without ``.json``; default ``scores.DATASET.VERSION``.

    Raises:
        CorrFractalError: the store refuses or does not answer.
    """
    import mlflow
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(f"{dataset}/{key}", value, now, 0) for key, value in measures.items()]
    artifact = name or f"scores.{dataset}.{registered[1]}"
    with mlflow_errors(model=f"models:/{registered[0]}/{registered[1]}"):
        client = mlflow.MlflowClient()
        client.log_batch(run_id, metrics=metrics)
        client.log_dict(run_id, dict(document), f"{artifact}.json")
