"""Create the MLflow run of a training: parameters, data set and code. A resumed training continues
the same run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corrfractal.registry.connection import open_experiment
from corrfractal.registry.mlflow_errors import mlflow_errors
from corrfractal.registry.pages import write_run_page
from corrfractal.registry.provenance import describe_run

PARAMETER_LENGTH = 500  # characters; MLflow refuses longer values


def start_run(
    uri: str, name: str, params: Mapping[str, Any], shards: str | Path, shards_digest: str
) -> str:
    """Create a run in the state RUNNING.

    Args:
        uri: MLflow store.
        name: of the run.
        params: its parameters, plain values.
        shards: folder of the data.
        shards_digest: digest of its manifest.

    Returns:
        The run's id.

    Raises:
        CorrFractalError: the store cannot be used.
    """
    import mlflow

    experiment = open_experiment(uri)
    with mlflow_errors():
        with mlflow.start_run(experiment_id=experiment, run_name=name) as run:
            texts = {key: str(value)[:PARAMETER_LENGTH] for key, value in params.items()}
            mlflow.log_params(texts)
            describe_run(shards, shards_digest, "train")
        # MLflow ended the run with the block.
        mlflow.MlflowClient().update_run(run.info.run_id, status="RUNNING")
    write_run_page(run.info.run_id)
    return str(run.info.run_id)


def log_pictures(uri: str, run_id: str, folder: Path) -> None:
    """Upload the pictures in the folder of a run; none if there is no folder.

    Raises:
        CorrFractalError: the store cannot be used.
    """
    import mlflow

    if folder.is_dir():
        with mlflow_errors():
            mlflow.MlflowClient(uri).log_artifacts(run_id, str(folder), folder.name)
