"""The MLflow side of inference: find the weights of a registered model or a run, and note scores
beside the model.

The store is that of ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working folder. Looking for
a model never creates an empty data base.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corrfractal.common.errors import CallError, IntegrityError, NotFoundError

from .connection import NoSuchVersionError, mlflow_errors, open_store
from .scores import Scores
from .store import local_file, tracking_uri

REGISTERED_NAME = "corrfractal"
DEFAULT_ALIASES = ("champion", "candidate")


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A model of the MLflow store, its weights on this machine.

    Attributes:
        uri: with the version an alias stood for, such as ``models:/corrfractal/3``.
        weights: safetensors file.
        run_id: run that made it, where known.
        registered: (name, version), where it is a registered one.
    """

    uri: str
    weights: Path
    run_id: str | None
    registered: tuple[str, str] | None


def fetch_default(download_to: Path | None) -> StoredModel:
    """The champion or, while there is none, the candidate.

    Raises:
        NotFoundError: neither is registered, or there is no store.
    """
    for alias in DEFAULT_ALIASES:
        try:
            return fetch(f"models:/{REGISTERED_NAME}@{alias}", download_to)
        except NoSuchVersionError:
            continue
    raise NotFoundError(
        f"no model {REGISTERED_NAME}@{DEFAULT_ALIASES[0]} or @{DEFAULT_ALIASES[1]} is registered "
        "in the MLflow store: train one with `corrfractal train`, or name a model with --model"
    )


def fetch(uri: str, download_to: Path | None) -> StoredModel:
    """Look up ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``runs:/ID/model`` and fetch its
    weights.

    Raises:
        NotFoundError: no such store, model, version or run.
        CallError: the name cannot be read, or the model holds more than one safetensors file.
        IntegrityError: its files are gone or cannot be read.
        CorrFractalError: the store cannot be used.
    """
    store = tracking_uri()
    if not open_store(store):
        raise NotFoundError(
            f"no model {uri}: the MLflow store {local_file(store)} does not exist; train a model "
            "with `corrfractal train`, set MLFLOW_TRACKING_URI, or name a model file with --model"
        )
    import mlflow

    with mlflow_errors(model=uri):
        registered, run_id = _facts(mlflow.MlflowClient(), uri)
        fixed = f"models:/{registered[0]}/{registered[1]}" if registered else uri
        found = list(_list_weights(fixed))
        if not found:
            raise IntegrityError(
                f"the model {fixed} is in the MLflow store, its weights are not in "
                f"{_location(fixed)}: restore that folder, or name another model with --model"
            )
        weights = only_weights(found, uri)
        if download_to is not None:
            download_to.mkdir(parents=True, exist_ok=True)
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{fixed}/{weights}",
            dst_path=None if download_to is None else str(download_to),
        )
    return StoredModel(uri=fixed, weights=Path(path), run_id=run_id, registered=registered)


def only_weights(paths: list[str], where: str) -> str:
    """The one safetensors file of a model folder.

    Raises:
        CallError: there is none, or more than one.
    """
    if len(paths) != 1:
        found = ", ".join(paths) or "none"
        raise CallError(
            f"the model {where} should hold exactly one .safetensors file, found: {found}"
        )
    return paths[0]


def log_scores(
    run_id: str, registered: tuple[str, str], scores: Scores, document: Mapping[str, Any]
) -> None:
    """Note scores on a registered version, as the tag that the registry's gate reads, and as
    ``log_measures`` does.

    Raises:
        CorrFractalError: the store refuses or does not answer.
    """
    import mlflow

    with mlflow_errors(model=f"models:/{registered[0]}/{registered[1]}"):
        mlflow.MlflowClient().set_model_version_tag(*registered, scores.tag, scores.to_text())
    measures = {"J": scores.J, "F": scores.F, "JF": scores.JF, "sequences": scores.sequences}
    log_measures(run_id, registered, scores.dataset, measures, document, scores.tag)


def log_measures(
    run_id: str,
    registered: tuple[str, str],
    dataset: str,
    measures: Mapping[str, float],
    document: Mapping[str, Any],
    name: str | None = None,
) -> None:
    """Note scores as metrics of the run that made a version, and all of ``scores.json`` as an
    artefact of it.

    Args:
        dataset: leads the names of the metrics, as in ``davis2017-val/J``.
        name: of the artefact; None takes the data set's and the version's.

    Raises:
        CorrFractalError: the store refuses or does not answer.
    """
    import mlflow
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    with mlflow_errors(model=f"models:/{registered[0]}/{registered[1]}"):
        client = mlflow.MlflowClient()
        metrics = [Metric(f"{dataset}/{key}", value, now, 0) for key, value in measures.items()]
        client.log_batch(run_id, metrics=metrics)
        client.log_dict(
            run_id, dict(document), f"{name or f'scores.{dataset}.{registered[1]}'}.json"
        )


def run_facts(run_id: str, registered: tuple[str, str] | None) -> dict[str, str]:
    """What the store says of where a model came from: aliases, parameters and tags of its run, for
    people to read.

    Raises:
        CorrFractalError: the store does not answer.
    """
    import mlflow

    with mlflow_errors(model=run_id):
        client = mlflow.MlflowClient()
        run = client.get_run(run_id)
        facts = {"MLflow run": f"{run.info.run_name} ({run_id})"}
        facts["trained"] = datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime(
            "%Y-%m-%d %H:%M UTC"
        )
        if registered is not None:
            version = client.get_model_version(*registered)
            facts["version"] = f"{registered[0]}/{registered[1]}" + "".join(
                f" @{a}" for a in version.aliases
            )
        facts |= {
            key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")
        }
        return facts


def _facts(client: Any, uri: str) -> tuple[tuple[str, str] | None, str | None]:
    """((name, version) or None, run id or None) of a model's name."""
    if match := re.fullmatch(r"runs:/([0-9a-f]{32})/.+", uri):
        return None, match[1]
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if match is None:
        raise CallError(
            f"cannot read the model name {uri}: write models:/NAME@ALIAS, models:/NAME/3 or "
            "runs:/ID/model"
        )
    name, alias, number = match.groups()
    version = (
        client.get_model_version_by_alias(name, alias)
        if alias
        else client.get_model_version(name, number)
    )
    return (name, str(version.version)), version.run_id or None


def _location(uri: str) -> str:
    """Where MLflow keeps a model, as a person would look for it."""
    import mlflow

    if uri.startswith("models:/"):
        name, number = uri.removeprefix("models:/").rsplit("/", 1)
        return str(mlflow.MlflowClient().get_model_version_download_uri(name, number))
    return uri


def _list_weights(uri: str, folder: str = "") -> Iterator[str]:
    """Paths of the safetensors files below an MLflow URI, relative to it."""
    import mlflow

    for entry in mlflow.artifacts.list_artifacts(artifact_uri=f"{uri}/{folder}" if folder else uri):
        name = Path(entry.path).name
        relative = f"{folder}/{name}" if folder else name
        if entry.is_dir:
            yield from _list_weights(uri, relative)
        elif name.endswith(".safetensors"):
            yield relative
