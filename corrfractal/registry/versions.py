"""The model registry: a trained network becomes a version of a registered model, ``candidate``
until promoted.

What a version is bound to are its tags: ``shards.digest``, ``weights.sha256``, and the checkpoint
that the weights came from (``checkpoint.path``, ``.step``, ``.sha256``). Checkpoints themselves
stay in the run's folder.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import corrfractal
from corrfractal.common.errors import NotFoundError
from corrfractal.common.files import file_sha256
from corrfractal.common.text import without_password

from .connection import mlflow_errors, open_experiment, open_store
from .provenance import DIGEST_TAG
from .scores import PREFIX, Scores, scores_from_text
from .store_moves import CHECKPOINT_TAG

NAME = "corrfractal"
CANDIDATE = "candidate"
CHAMPION = "champion"
WEIGHTS_TAG = "weights.sha256"
# What `serving.py` and the method beneath it import; faiss is needed for labels only.
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


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A registered version. ``aliases`` such as ``candidate``; ``metrics`` are those of its run;
    ``scores`` those that evaluation noted on it."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    created: str
    shards_digest: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    scores: tuple[Scores, ...]

    @property
    def uri(self) -> str:
        """What ``--model`` takes."""
        return f"models:/{self.name}/{self.version}"


def register(
    model_file: Path,
    run_id: str,
    uri: str,
    shards_digest: str,
    *,
    serving_file: Path,
    name: str = NAME,
) -> ModelVersion:
    """Log the model with its run, register it, and give it the alias ``candidate``. A run registers
    one version only.

    Args:
        model_file: ``model.safetensors``.
        run_id: the MLflow run that trained it.
        uri: MLflow store.
        shards_digest: identity of its data set.
        serving_file: Python file that MLflow runs to serve the model.
        name: registered model.

    Raises:
        CorrFractalError: the store cannot be used, or fails meanwhile.
    """
    open_experiment(uri)
    with mlflow_errors():
        number = _register(model_file, run_id, shards_digest, serving_file, name)
    return show(f"{name}/{number}", uri)


def _register(
    model_file: Path, run_id: str, shards_digest: str, serving_file: Path, name: str
) -> str:
    import mlflow

    client = mlflow.MlflowClient()
    found = [v for v in _search(client, name) if v.run_id == run_id]
    if not found:
        with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            # Of an input example, which would have to be a whole video, and of type hints in
            # MLflow's own modules.
            warnings.filterwarnings(
                "ignore", message=".*(input example|type hint)", category=UserWarning
            )
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(serving_file),
                artifacts={"weights": model_file.absolute().as_uri()},
                code_paths=[str(Path(corrfractal.__file__).parent)],
                signature=signature(),
                pip_requirements=[
                    f"{package}=={_public_version(package)}" for package in SERVING_REQUIREMENTS
                ],
                registered_model_name=name,
                metadata={"shards_digest": shards_digest},
            )
        found = [v for v in _search(client, name) if v.run_id == run_id]
    tags = {
        DIGEST_TAG: shards_digest,
        WEIGHTS_TAG: file_sha256(model_file),
        **_checkpoint_tags(model_file.parent),
    }
    for key, value in tags.items():
        client.set_model_version_tag(name, found[0].version, key, value)
    client.set_registered_model_alias(name, CANDIDATE, found[0].version)
    return str(found[0].version)


def list_models(uri: str, name: str = NAME) -> list[ModelVersion]:
    """All versions, newest first; none where a local store does not exist, which is not created.

    Raises:
        CorrFractalError: the store cannot be used.
    """
    import mlflow

    if not open_store(uri):
        return []
    with mlflow_errors():
        client = mlflow.MlflowClient()
        aliases = _aliases(client, name)
        versions = sorted(_search(client, name), key=lambda v: -int(v.version))
        return [_describe(client, v, aliases) for v in versions]


def show(model: str, uri: str) -> ModelVersion:
    """One version, named ``3``, ``candidate``, ``corrfractal/3``, ``corrfractal@candidate`` or
    ``models:/...``.

    Raises:
        NotFoundError: no such version; says which there are.
    """
    wanted = model.removeprefix("models:/")
    name, _, which = wanted.replace("@", "/").rpartition("/")
    versions = list_models(uri, name or NAME)
    for candidate in versions:
        if which == str(candidate.version) or which in candidate.aliases:
            return candidate
    known = (
        ", ".join(f"{v.version} ({'/'.join(v.aliases) or 'no alias'})" for v in versions) or "none"
    )
    raise NotFoundError(
        f"no model '{model}' in {without_password(uri)}; versions there: {known}. `corrfractal "
        "models list` shows them"
    )


def fetch_weights(version: ModelVersion, folder: Path) -> Path:
    """Copy the weights of a version of the store at hand into a folder.

    Raises:
        CorrFractalError: they cannot be had.
    """
    import mlflow

    uri = f"{version.uri}/artifacts/model.safetensors"
    with mlflow_errors(model=version.uri):
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))


def name_filter(name: str) -> str:
    """What MLflow's searches take to find one name.

    Raises:
        NotFoundError: the name cannot be written in one: it has quotes of both kinds, or a
        backslash.
    """
    quote = '"' if "'" in name else "'"
    if quote in name or "\\" in name:
        raise NotFoundError(f"no model '{name}': a registered model has no such name")
    return f"name={quote}{name}{quote}"


def _search(client: Any, name: str) -> list[Any]:
    return list(client.search_model_versions(name_filter(name)))


def _aliases(client: Any, name: str) -> dict[str, list[str]]:
    """Version -> aliases. Searching versions leaves them out; the registered model knows them."""
    registered = client.search_registered_models(name_filter(name))
    by_version: dict[str, list[str]] = {}
    for alias, number in registered[0].aliases.items() if registered else ():
        by_version.setdefault(str(number), []).append(alias)
    return by_version


def _describe(client: Any, found: Any, aliases: Mapping[str, list[str]]) -> ModelVersion:
    from datetime import UTC, datetime

    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(
        timespec="seconds"
    )
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        aliases=tuple(sorted(aliases.get(str(found.version), []))),
        run_id=found.run_id,
        created=created,
        shards_digest=found.tags.get(DIGEST_TAG, "unknown"),
        metrics=_metrics(client, found.run_id),
        tags=dict(found.tags),
        scores=tuple(
            scores_from_text(text, where=f"tag {tag} of {found.name}/{found.version}")
            for tag, text in sorted(found.tags.items())
            if tag.startswith(PREFIX)
        ),
    )


def _metrics(client: Any, run_id: str | None) -> dict[str, float]:
    """Metrics of a run; none where a version was registered by hand without a run, or the run is
    gone."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return {}
    try:
        return dict(client.get_run(run_id).data.metrics)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def _checkpoint_tags(out: Path) -> dict[str, str]:
    """Where the newest checkpoint of a run's folder is, and its hash as its companion file tells
    it."""
    found = sorted((out / "checkpoints").glob("step-*.json"))
    if not found:
        return {}
    facts = json.loads(found[-1].read_text())
    path = found[-1].with_suffix(".pt")
    return {
        CHECKPOINT_TAG: str(path),
        "checkpoint.step": str(facts["step"]),
        "checkpoint.sha256": facts["sha256"],
    }


def _public_version(package: str) -> str:
    """As an index knows it: ``2.13.0+cpu`` is a build of this machine's, and no index has it for
    another."""
    return version(package).partition("+")[0]


def signature() -> Any:
    """What the served model takes and gives, see ``inference.serving``."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    binary, whole = DataType.binary, DataType.long
    return ModelSignature(
        inputs=Schema([ColSpec(binary, "video"), ColSpec(binary, "mask")]),
        outputs=Schema([ColSpec(whole, "video"), ColSpec(whole, "frame"), ColSpec(binary, "mask")]),
        params=ParamSchema([ParamSpec("fast", DataType.boolean, False)]),
    )
