"""The MLflow side of inference: find the weights of a registered model or a run, and note scores beside the model.

MLflow's store is only read for a model that exists: looking for one never creates an empty database.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corrfractal.errors import CallError, IntegrityError, NotFoundError
from corrfractal.runtime import sqlite_file
from corrfractal.scores import Scores
from corrfractal.tracking import first_line, store_error

REGISTERED_NAME = "corrfractal"
DEFAULT_ALIASES = ("champion", "candidate")
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


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


class NoSuchVersionError(NotFoundError):
    """The store answers, and holds no such model."""


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
        f"no model {REGISTERED_NAME}@{DEFAULT_ALIASES[0]} or @{DEFAULT_ALIASES[1]} is registered in the MLflow store: "
        "train one with `corrfractal train`, or name a model with --model"
    )


def fetch(uri: str, download_to: Path | None) -> StoredModel:
    """Look up ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``runs:/ID/model`` and fetch its weights.

    Raises:
        NotFoundError: no such store, model, version or run.
        CallError: the name cannot be read, or the model does not hold exactly one safetensors file.
        CorrFractalError: the store does not answer.
    """
    _check_store(uri)
    import mlflow

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with _mlflow_errors(uri):
        registered, run_id = _facts(mlflow.MlflowClient(), uri)
        fixed = f"models:/{registered[0]}/{registered[1]}" if registered else uri
        weights = only_weights(list(_list_weights(fixed)), uri)
        if download_to is not None:
            download_to.mkdir(parents=True, exist_ok=True)
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{fixed}/{weights}", dst_path=None if download_to is None else str(download_to)
        )
    return StoredModel(uri=fixed, weights=Path(path), run_id=run_id, registered=registered)


def only_weights(paths: list[str], where: str) -> str:
    """The one safetensors file of a model folder.

    Raises:
        CallError: there is none, or more than one.
    """
    if len(paths) != 1:
        found = ", ".join(paths) or "none"
        raise CallError(f"the model {where} should hold exactly one .safetensors file, found: {found}")
    return paths[0]


def log_scores(run_id: str, registered: tuple[str, str], scores: Scores, document: Mapping[str, Any]) -> None:
    """Note scores on a registered version, as the tag that the registry's gate reads, and as ``log_measures`` does.

    Raises:
        CorrFractalError: the store refuses or does not answer.
    """
    import mlflow

    with _mlflow_errors(f"models:/{registered[0]}/{registered[1]}"):
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
    """Note scores as metrics of the run that made a version, and all of ``scores.json`` as an artefact of it.

    Args:
        dataset: leads the names of the metrics, as in ``davis2017-val/J``.
        name: of the artefact; None takes the data set's and the version's.

    Raises:
        CorrFractalError: the store refuses or does not answer.
    """
    import mlflow
    from mlflow.entities import Metric

    client, now = mlflow.MlflowClient(), int(time.time() * 1000)
    with _mlflow_errors(f"models:/{registered[0]}/{registered[1]}"):
        metrics = [Metric(f"{dataset}/{key}", value, now, 0) for key, value in measures.items()]
        client.log_batch(run_id, metrics=metrics)
        client.log_dict(run_id, dict(document), f"{name or f'scores.{dataset}.{registered[1]}'}.json")


def run_facts(run_id: str, registered: tuple[str, str] | None) -> dict[str, str]:
    """What the store says of where a model came from: aliases, parameters and tags of its run, for people to read.

    Raises:
        CorrFractalError: the store does not answer.
    """
    import mlflow

    client = mlflow.MlflowClient()
    with _mlflow_errors(run_id):
        run = client.get_run(run_id)
        facts = {"MLflow run": f"{run.info.run_name} ({run_id})"}
        facts["trained"] = datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if registered is not None:
            version = client.get_model_version(*registered)
            facts["version"] = f"{registered[0]}/{registered[1]}" + "".join(f" @{a}" for a in version.aliases)
        facts |= {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
        return facts


def _facts(client: Any, uri: str) -> tuple[tuple[str, str] | None, str | None]:
    """((name, version) or None, run id or None) of a model's name."""
    if match := re.fullmatch(r"runs:/([0-9a-f]{32})/.+", uri):
        return None, match[1]
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if match is None:
        raise CallError(f"cannot read the model name {uri}: write models:/NAME@ALIAS, models:/NAME/3 or runs:/ID/model")
    name, alias, number = match.groups()
    version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    return (name, str(version.version)), version.run_id or None


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


def _check_store(uri: str) -> None:
    import mlflow

    path = sqlite_file(mlflow.get_tracking_uri())
    if path is not None and not path.is_file():
        raise NotFoundError(
            f"no model {uri}: the MLflow store {path} does not exist; train a model with `corrfractal train`, "
            "set MLFLOW_TRACKING_URI, or name a model file with --model"
        )


@contextmanager
def _mlflow_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one sentence."""
    import mlflow

    try:
        yield
    except mlflow.exceptions.MlflowException as exc:
        if exc.error_code in MISSING:
            hint = "`corrfractal models list` shows what there is"
            raise NoSuchVersionError(f"no such model: {uri} ({first_line(exc).rstrip('.')}); {hint}") from exc
        raise store_error(exc, mlflow.get_tracking_uri()) from exc
    except OSError as exc:
        raise IntegrityError(f"the files of the model {uri} cannot be read: {exc}") from exc
