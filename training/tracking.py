"""What a run tells MLflow: parameters, data set, metrics, pictures. One run per training, resumed with it; rank 0 only.

Metrics are sent in the background: a call to an SQL store takes 25 ms and one over HTTP 130 ms.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corrfractal.errors import NotFoundError
from corrfractal.runtime import sqlite_file

EXPERIMENT = "corrfractal"


def tracking_uri(given: str | None = None) -> str:
    """Where runs and models are kept: the argument, ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def start_run(uri: str, name: str, params: Mapping[str, Any], shards: Path, shards_digest: str) -> str:
    """Create a run with its parameters and its data set; returns the run id."""
    import mlflow

    experiment = open_experiment(uri)
    with mlflow.start_run(experiment_id=experiment, run_name=name) as run:
        mlflow.log_params({key: str(value)[:500] for key, value in params.items()})
        mlflow.set_tags({"shards.digest": shards_digest, "shards.path": str(shards)})
        mlflow.log_input(_data_set(shards, shards_digest), context="training")
    return str(run.info.run_id)


def open_experiment(uri: str) -> str:
    """Point MLflow at a store; return the experiment's id, made if new. A local store keeps artefacts beside itself."""
    import mlflow

    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):  # a line per table on first use
        logging.getLogger(chatty).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(uri)
    found = mlflow.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if (store := sqlite_file(uri)) is not None:
        location = (store.parent / "mlartifacts").as_uri()
    return str(mlflow.create_experiment(EXPERIMENT, artifact_location=location))


class RunLog:
    """Writes to one run, by id; ``close`` waits until everything has arrived."""

    def __init__(self, uri: str, run_id: str) -> None:
        import mlflow

        mlflow.set_tracking_uri(uri)
        self._mlflow, self._run_id = mlflow, run_id

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Send metrics of a step, in the background."""
        self._mlflow.log_metrics(dict(values), step=step, run_id=self._run_id, synchronous=False)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Send a file."""
        self._mlflow.MlflowClient().log_artifact(self._run_id, str(path), folder)

    def close(self, status: str) -> None:
        """Wait for what is under way; mark the run FINISHED or FAILED."""
        self._mlflow.flush_async_logging()
        self._mlflow.MlflowClient().set_terminated(self._run_id, status)


def _data_set(shards: Path, shards_digest: str) -> Any:
    import mlflow

    with warnings.catch_warnings():
        # MLflow registers two equal readings of a local path and says so each time.
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
        source = mlflow.data.dataset_source_registry.resolve_dataset_source(str(shards))
    # The store holds 36 characters of a digest; the whole one is a tag of the run and of the model version.
    return mlflow.data.meta_dataset.MetaDataset(source, name=shards.name, digest=shards_digest[:36])


def existing_store(given: str | None = None) -> str:
    """As ``tracking_uri``, for reading: a local store that does not exist is an error, not a new empty data base.

    Raises:
        NotFoundError: names the file that was expected.
    """
    uri = tracking_uri(given)
    store = sqlite_file(uri)
    if store is not None and not store.exists():
        raise NotFoundError(
            f"no model is registered: {store} does not exist. Run `corrfractal train`, or set MLFLOW_TRACKING_URI"
        )
    return uri
