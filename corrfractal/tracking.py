"""Where runs are kept in MLflow, and how a data set is named there: what all stages that track have in common.

The only file of this package that imports MLflow, and only when it is called.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from .runtime import sqlite_file

EXPERIMENT = "corrfractal"


def tracking_uri(given: str | None = None) -> str:
    """Where runs and models are kept: the argument, ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


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


def data_set(shards: str | Path, shards_digest: str) -> Any:
    """A folder of shards as an MLflow data set."""
    import mlflow

    with warnings.catch_warnings():
        # MLflow registers two equal readings of a local path and says so each time.
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
        source = mlflow.data.dataset_source_registry.resolve_dataset_source(str(shards))
    # The store holds 36 characters of a digest; the whole one is a tag of the run and of the model version.
    return mlflow.data.meta_dataset.MetaDataset(source, name=Path(str(shards)).name, digest=shards_digest[:36])
