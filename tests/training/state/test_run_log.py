"""Contents of the MLflow run of a finished training."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest

from corrfractal.registry.registration import signature
from corrfractal.registry.versions import find_version
from corrfractal.shards.manifest import load_manifest

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def test_one_run_holds_configuration_code_versions_data_machine_pictures_and_the_model(
    store: str, registered: tuple[Path, list[Path]], tiny_shards: Path
) -> None:
    version = find_version("1", store)
    run, client = mlflow.get_run(version.run_id), mlflow.MlflowClient()
    assert run.info.status == "FINISHED"
    assert run.data.params["network.width"] == "4"
    assert {"git.commit", "git.dirty", "version.torch", "version.mlflow", "version.python"} <= set(
        run.data.tags
    )
    digest = load_manifest(tiny_shards).digest
    assert run.data.tags["shards.digest"] == digest
    assert run.inputs.dataset_inputs[0].dataset.digest == digest[:36]
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    steps = [
        point.step
        for point in client.get_metric_history(version.run_id, "system/cpu_utilization_percentage")
    ]
    assert steps == [2, 4]

    artifacts = {entry.path for entry in client.list_artifacts(version.run_id)}
    assert {
        "manifest.json",
        "index",
        "environment.txt",
        "attempts.jsonl",
        "metrics.jsonl",
        "pictures",
    } <= artifacts
    assert "torch==" in mlflow.artifacts.load_text(f"runs:/{version.run_id}/environment.txt")
    attempt = json.loads((registered[1][0] / "attempts.jsonl").read_text().splitlines()[0])
    assert attempt["git.commit"] == run.data.tags["git.commit"]
    assert mlflow.models.get_model_info("models:/corrfractal/1").signature == signature()


def test_the_declared_requirements_are_on_an_index(store: str) -> None:
    find_version("1", store)
    needs = (
        Path(mlflow.artifacts.download_artifacts("models:/corrfractal/1/requirements.txt"))
        .read_text()
        .split()
    )
    assert not any("+" in need for need in needs), "a local build such as 2.13.0+cpu is on no index"
    names = {need.partition("==")[0] for need in needs}
    assert {"torch", "mlflow", "decord2", "av"} <= names
    assert not names & {"ray", "webdataset", "faiss-cpu"}
