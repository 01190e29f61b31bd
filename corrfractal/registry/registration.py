"""Register a trained network as a new version, with the alias ``candidate``."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import corrfractal
from corrfractal.files import storage
from corrfractal.files.atomic import file_sha256

from .connection import open_experiment
from .mlflow_errors import mlflow_errors
from .names import (
    CANDIDATE,
    CHECKPOINT_PATH_TAG,
    CHECKPOINT_SHA256_TAG,
    CHECKPOINT_STEP_TAG,
    DIGEST_TAG,
    PROJECT,
    WEIGHTS_TAG,
)
from .pages import ABOUT, write_pages
from .versions import ModelVersion, find_version, name_filter

SERVING_REQUIREMENTS = (
    "mlflow",
    "torch",
    "numpy",
    "pandas",
    "safetensors",
    "pydantic",
    "decord2",
    "av",
    "opencv-python-headless",
    "numba",
    "pillow",
    "simplejpeg",
)
"""What ``inference/serving.py`` and the modules it uses import. Only labels need faiss."""

MODEL_TEXT = f"""\
{ABOUT}

- `candidate` is the newest version.
- `champion` is the version that passed the gate last: `corrfractal models promote`.
"""
"""Description of the registered model."""


def register(
    model_file: Path,
    run_id: str,
    uri: str,
    shards_digest: str,
    *,
    serving_file: Path,
    run_folder: storage.Location | None = None,
    name: str = PROJECT,
) -> ModelVersion:
    """Log a model with its run and register it as ``candidate``.

    Idempotent: a run has one version, so a second call only repeats tags and alias.

    Args:
        model_file: ``model.safetensors`` of the run.
        run_id: MLflow run that trained it.
        uri: MLflow store.
        shards_digest: digest of its data set.
        serving_file: Python file that MLflow runs to serve the model.
        run_folder: with the run's checkpoints, local or a URI; None: the folder of ``model_file``.
        name: registered model.

    Raises:
        CorrFractalError: the store cannot be used, or fails meanwhile.
    """
    import mlflow

    open_experiment(uri)
    with mlflow_errors():
        client = mlflow.MlflowClient()
        number = _version_of_run(name, run_id)
        if number is None:
            _log_model(model_file, run_id, shards_digest, serving_file, name)
            _describe_model(name)
            number = _version_of_run(name, run_id)

        # An earlier call may have stopped between registering and tagging, so tags are repeated.
        tags = {
            DIGEST_TAG: shards_digest,
            WEIGHTS_TAG: file_sha256(model_file),
            **_checkpoint_tags(run_folder or model_file.parent),
        }
        for key, value in tags.items():
            client.set_model_version_tag(name, number, key, value)
        client.set_registered_model_alias(name, CANDIDATE, number)
    write_pages(f"{name}/{number}", uri)
    return find_version(f"{name}/{number}", uri)


def signature() -> Any:
    """The signature of the served model: columns and parameters of ``inference.serving``."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "video"), ColSpec(DataType.binary, "mask")]),
        outputs=Schema(
            [
                ColSpec(DataType.long, "video"),
                ColSpec(DataType.long, "frame"),
                ColSpec(DataType.binary, "mask"),
            ]
        ),
        params=ParamSchema([ParamSpec("fast", DataType.boolean, False)]),
    )


def _version_of_run(name: str, run_id: str) -> str | None:
    import mlflow

    found = mlflow.search_model_versions(filter_string=f"{name_filter(name)} AND run_id='{run_id}'")
    return str(found[0].version) if found else None


def _log_model(
    model_file: Path, run_id: str, shards_digest: str, serving_file: Path, name: str
) -> None:
    import mlflow

    requirements = [f"{package}=={_public_version(package)}" for package in SERVING_REQUIREMENTS]
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        # MLflow asks for an input example, which would be a complete video, and warns about type
        # hints in its own modules.
        warnings.filterwarnings(
            "ignore", message=".*(input example|type hint)", category=UserWarning
        )
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(serving_file),
            artifacts={"weights": model_file.absolute().as_uri()},
            code_paths=[str(Path(corrfractal.__file__).parent)],
            signature=signature(),
            pip_requirements=requirements,
            registered_model_name=name,
            metadata={"shards_digest": shards_digest},
        )


def _describe_model(name: str) -> None:
    """Describe the registered model, unless somebody has."""
    import mlflow

    client = mlflow.MlflowClient()
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, MODEL_TEXT)


def _checkpoint_tags(out: storage.Location) -> dict[str, str]:
    """Path, step and hash of the newest checkpoint in a run's folder, from its JSON sidecar."""
    folder = storage.join(out, "checkpoints")
    names = storage.listing(folder)[0] if storage.kind(folder) == "folder" else []
    sidecars = [name for name in names if name.startswith("step-") and name.endswith(".json")]
    if not sidecars:
        return {}
    path = storage.join(folder, sidecars[-1])
    sidecar = json.loads(storage.read(path))
    return {
        CHECKPOINT_PATH_TAG: path.removesuffix(".json") + ".pt",
        CHECKPOINT_STEP_TAG: str(sidecar["step"]),
        CHECKPOINT_SHA256_TAG: sidecar["sha256"],
    }


def _public_version(package: str) -> str:
    """The version without its local part: package indexes have no ``2.13.0+cpu``."""
    return version(package).partition("+")[0]
