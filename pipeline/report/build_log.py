"""Log finished shards as an MLflow run: configuration, counts, label health, and the manifest as
its data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from corrfractal.common.config import flatten
from corrfractal.files import storage
from corrfractal.registry.connection import open_experiment
from corrfractal.registry.mlflow_errors import mlflow_errors
from corrfractal.registry.pages import write_run_page
from corrfractal.registry.provenance import describe_run
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import QUARANTINE, load_manifest
from pipeline.label.label_health import Health, data_set_health, shards_health

SHARD_HEALTH = "shard_health.jsonl"
MAX_PARAMETER_LENGTH = 500  # characters; older MLflow servers refuse longer values


def log_build(uri: str, out: str, metrics: Mapping[str, float]) -> str:
    """Log a folder of shards.

    Args:
        uri: of the MLflow store.
        out: the folder; its manifest must exist.
        metrics: of the run that built it, such as its seconds, by name.

    Returns:
        The run's id.
    """
    import mlflow

    # 1. Collect everything before the run is opened: a damaged file must not leave half a run.
    manifest = load_manifest(out)
    counts = {
        name: value
        for name, value in flatten(asdict(manifest.statistics)).items()
        if isinstance(value, int)
    }
    parameters = {
        name: str(value)[:MAX_PARAMETER_LENGTH] for name, value in flatten(manifest.config).items()
    }
    index = Index(out, manifest)
    health = data_set_health(manifest, index)
    shards = [asdict(shard) for shard in shards_health(manifest, index)]
    quarantine = storage.read(storage.join(out, QUARANTINE)).decode()

    # 2. Log it.
    experiment = open_experiment(uri)
    with (
        mlflow_errors(),
        mlflow.start_run(experiment_id=experiment, run_name=f"precompute {Path(out).name}") as run,
    ):
        mlflow.log_params(parameters)
        describe_run(out, manifest.digest, "precompute")
        mlflow.log_metrics({**counts, **_health_metrics(health), **metrics})
        mlflow.log_text("".join(json.dumps(shard) + "\n" for shard in shards), SHARD_HEALTH)
        mlflow.log_text(quarantine, QUARANTINE)
    write_run_page(run.info.run_id)
    return str(run.info.run_id)


def _health_metrics(health: Health) -> dict[str, float]:
    """Metrics ``health.entropy`` and so on; ``health.occupancy.00`` is that of the most frequent
    label."""
    values = {
        name: value for name, value in asdict(health).items() if isinstance(value, int | float)
    }
    for rank, share in enumerate(health.occupancy):
        values[f"occupancy.{rank:02d}"] = share
    return {f"health.{name}": value for name, value in values.items()}
