"""The model registry: a trained network becomes a version of a registered model, ``candidate`` until promoted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import corrfractal
from corrfractal.errors import NotFoundError
from corrfractal.tracking import open_experiment

NAME = "corrfractal"
CANDIDATE = "candidate"
NEEDS = ("torch", "numpy", "safetensors", "pydantic", "decord2", "av", "opencv-python-headless", "pillow", "faiss-cpu")


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A registered version. ``aliases`` such as ``candidate``; ``metrics`` are those of its run."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    created: str
    shards_digest: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """What ``--model`` takes."""
        return f"models:/{self.name}/{self.version}"


def register(model_file: Path, run_id: str, uri: str, shards_digest: str, name: str = NAME) -> ModelVersion:
    """Log the model with its run, register it, and give it the alias ``candidate``. A run registers one version only.

    Args:
        model_file: ``model.safetensors``.
        run_id: the MLflow run that trained it.
        uri: MLflow store.
        shards_digest: identity of its data set.
        name: registered model.
    """
    import mlflow

    open_experiment(uri)
    client = mlflow.MlflowClient()
    found = [v for v in _search(client, name) if v.run_id == run_id]
    if not found:
        with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            # The signature is written out below; an example would have to be a whole video.
            warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("serving.py")),
                artifacts={"weights": str(model_file)},
                code_paths=[str(Path(corrfractal.__file__).parent)],
                signature=_signature(),
                pip_requirements=[f"{package}=={version(package)}" for package in ("mlflow", "pandas", *_installed())],
                registered_model_name=name,
                metadata={"shards_digest": shards_digest},
            )
        found = [v for v in _search(client, name) if v.run_id == run_id]
    client.set_model_version_tag(name, found[0].version, "shards.digest", shards_digest)
    client.set_registered_model_alias(name, CANDIDATE, found[0].version)
    return show(f"{name}/{found[0].version}", uri)


def list_models(uri: str, name: str = NAME) -> list[ModelVersion]:
    """All versions, newest first."""
    import mlflow

    open_experiment(uri)
    client = mlflow.MlflowClient()
    aliases = _aliases(client, name)
    versions = sorted(_search(client, name), key=lambda v: -int(v.version))
    return [_describe(client, v, aliases) for v in versions]


def show(model: str, uri: str) -> ModelVersion:
    """One version, named ``3``, ``candidate``, ``corrfractal/3``, ``corrfractal@candidate`` or ``models:/...``.

    Raises:
        NotFoundError: no such version; says which there are.
    """
    wanted = model.removeprefix("models:/")
    name, _, which = wanted.replace("@", "/").rpartition("/")
    versions = list_models(uri, name or NAME)
    for candidate in versions:
        if which == str(candidate.version) or which in candidate.aliases:
            return candidate
    known = ", ".join(f"{v.version} ({'/'.join(v.aliases) or 'no alias'})" for v in versions) or "none"
    raise NotFoundError(f"no model '{model}' in {uri}; versions there: {known}. `corrfractal models list` shows them")


def _search(client: Any, name: str) -> list[Any]:
    return list(client.search_model_versions(f"name='{name}'"))


def _aliases(client: Any, name: str) -> dict[str, list[str]]:
    """Version -> aliases. Searching versions leaves them out; the registered model knows them."""
    registered = client.search_registered_models(f"name='{name}'")
    by_version: dict[str, list[str]] = {}
    for alias, number in registered[0].aliases.items() if registered else ():
        by_version.setdefault(str(number), []).append(alias)
    return by_version


def _describe(client: Any, found: Any, aliases: Mapping[str, list[str]]) -> ModelVersion:
    from datetime import UTC, datetime

    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="seconds")
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        aliases=tuple(sorted(aliases.get(str(found.version), []))),
        run_id=found.run_id,
        created=created,
        shards_digest=found.tags.get("shards.digest", "unknown"),
        metrics=dict(client.get_run(found.run_id).data.metrics),
        tags=dict(found.tags),
    )


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    binary, whole = DataType.binary, DataType.long
    return ModelSignature(
        inputs=Schema([ColSpec(binary, "video"), ColSpec(binary, "mask")]),
        outputs=Schema([ColSpec(whole, "video"), ColSpec(whole, "frame"), ColSpec(binary, "mask")]),
        params=ParamSchema([ParamSpec("fast", DataType.boolean, False)]),
    )


def _installed() -> list[str]:
    """The packages that the method needs, with faiss in whichever flavour is installed."""
    from importlib.metadata import PackageNotFoundError

    found = []
    for package in NEEDS:
        try:
            version(package)
        except PackageNotFoundError:
            package = "faiss-gpu-cu12"
        found.append(package)
    return found
