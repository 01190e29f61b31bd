"""Finished shards as an MLflow run: configuration, counts, label health, and the manifest as its
data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from corrfractal.common import storage
from corrfractal.common.config import flatten
from corrfractal.registry.connection import open_experiment
from corrfractal.registry.mlflow_errors import mlflow_errors
from corrfractal.registry.provenance import describe_run
from corrfractal.shards.manifest import QUARANTINE, load_manifest, load_sidecar
from pipeline.label.label_health import Health, clusters, data_set_health, shard_health

SHARD_HEALTH = "shard_health.jsonl"


def log_build(uri: str, out: str, metrics: Mapping[str, float]) -> str:
    """Log a folder of shards.

    Args:
        uri: MLflow store.
        out: the folder, whose manifest is written.
        metrics: what the run that made it took, by name.

    Returns:
        The run's id.
    """
    import mlflow

    manifest = load_manifest(out)
    counts = {
        name: value
        for name, value in flatten(asdict(manifest.statistics)).items()
        if isinstance(value, int)
    }
    shards = [
        asdict(shard_health(load_sidecar(out, shard), clusters(manifest)))
        for shard in manifest.shards
    ]
    experiment = open_experiment(uri)
    with (
        mlflow_errors(),
        mlflow.start_run(experiment_id=experiment, run_name=f"precompute {Path(out).name}") as run,
    ):
        mlflow.log_params(
            {key: str(value)[:500] for key, value in flatten(manifest.config).items()}
        )
        describe_run(out, manifest.digest, "precompute")
        mlflow.log_metrics({**counts, **_health_metrics(data_set_health(manifest)), **metrics})
        mlflow.log_text("".join(json.dumps(shard) + "\n" for shard in shards), SHARD_HEALTH)
        mlflow.log_text(storage.read(storage.join(out, QUARANTINE)).decode(), QUARANTINE)
    return str(run.info.run_id)


def _health_metrics(health: Health) -> dict[str, float]:
    """``health.entropy`` and so on; ``health.occupancy.00`` is the most frequent label's."""
    values = {
        name: value for name, value in asdict(health).items() if isinstance(value, int | float)
    }
    values |= {f"occupancy.{rank:02d}": share for rank, share in enumerate(health.occupancy)}
    return {f"health.{name}": value for name, value in values.items()}
