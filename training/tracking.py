"""What a run tells MLflow: parameters, data set, metrics, pictures. One run per training, resumed with it; rank 0 only.

Metrics are sent in the background: a call to an SQL store takes 25 ms and one over HTTP 130 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corrfractal.errors import NotFoundError
from corrfractal.runtime import sqlite_file
from corrfractal.tracking import describe_run, open_experiment, tracking_uri


def start_run(uri: str, name: str, params: Mapping[str, Any], shards: Path, shards_digest: str) -> str:
    """Create a run with its parameters, its data set, and what code makes it; returns the run id."""
    import mlflow

    experiment = open_experiment(uri)
    with mlflow.start_run(experiment_id=experiment, run_name=name) as run:
        mlflow.log_params({key: str(value)[:500] for key, value in params.items()})
        describe_run(shards, shards_digest, "train")
    mlflow.MlflowClient().update_run(run.info.run_id, status="RUNNING")  # leaving the block has ended it
    return str(run.info.run_id)


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
