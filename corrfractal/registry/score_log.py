"""Store the scores of a registered model: as a tag of its version, as metrics of its run, and in
the descriptions of both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .mlflow_errors import current_store, mlflow_errors
from .pages import write_pages
from .scores import Scores


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
    write_pages("/".join(registered), current_store())
