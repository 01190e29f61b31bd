"""What a run tells MLflow: parameters, data set, metrics, pictures. One run per training, resumed with it; rank 0 only.

Metrics are sent in the background: a call to an SQL store takes 25 ms and one over HTTP 130 ms.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corrfractal.errors import NotFoundError
from corrfractal.runtime import sqlite_file
from corrfractal.tracking import (
    DIGEST_TAG,
    code_state,
    data_set,
    environment,
    log_shards,
    open_experiment,
    tracking_uri,
)

ATTEMPTS = "attempts.jsonl"


def start_run(uri: str, name: str, params: Mapping[str, Any], shards: Path, shards_digest: str) -> str:
    """Create a run with its parameters, its data set, and what code makes it; returns the run id."""
    import mlflow

    experiment = open_experiment(uri)
    with mlflow.start_run(experiment_id=experiment, run_name=name) as run:
        mlflow.log_params({key: str(value)[:500] for key, value in params.items()})
        mlflow.set_tags({DIGEST_TAG: shards_digest, "shards.path": str(shards), "stage": "train", **code_state()})
        mlflow.log_input(data_set(shards, shards_digest), context="training")
        mlflow.log_text(environment(), "environment.txt")
        log_shards(shards)
    mlflow.MlflowClient().update_run(run.info.run_id, status="RUNNING")  # leaving the block has ended it
    return str(run.info.run_id)


def note_attempt(out: Path, workers: int) -> None:
    """Add a line to the run's folder: who goes on with it, with what code. The run gets the file when it ends."""
    facts = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname(), "workers": workers}
    with (out / ATTEMPTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**facts, **code_state()}) + "\n")


class Machine:
    """What the machine of rank 0 does: processor, memory, disk, network, GPUs, as MLflow's own system metrics name it.

    MLflow's thread for them ends for good when the server does not answer once. Sampled with the run's other metrics
    they share those' step and delivery.
    """

    def __init__(self, run_id: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # says that there is no GPU
        self._monitors = SystemMetricsMonitor(run_id).monitors

    def sample(self) -> dict[str, float]:
        """Means or counts since the last call."""
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values.update(monitor.aggregate_metrics())
            monitor.clear_metrics()
        return {f"system/{name}": float(value) for name, value in values.items()}


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
