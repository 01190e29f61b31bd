"""Fetch the weights of a registered model or a run from MLflow.

Looking for a model never creates a store.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corrfractal.common.errors import CallError, IntegrityError, NotFoundError

from .connection import open_store
from .mlflow_errors import NoSuchVersionError, mlflow_errors
from .names import CANDIDATE, CHAMPION, PROJECT
from .store import local_file, tracking_uri
from .versions import lookup

CODE_FOLDER = "code"
"""Where MLflow stores the Python packages of a model, below its folder."""


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A model of the MLflow store, with its weights as a local file.

    Attributes:
        uri: with the version number in place of an alias, such as ``models:/corrfractal/3``.
        weights: safetensors file.
        run_id: run that trained it, if known.
        registered: (name, version) of a registered model.
    """

    uri: str
    weights: Path
    run_id: str | None
    registered: tuple[str, str] | None


def fetch_default(download_to: Path | None) -> StoredModel:
    """Fetch the champion; fallback: the candidate. Arguments and errors as in ``fetch``.

    Raises:
        NotFoundError: neither is registered, or the store does not exist.
    """
    for alias in (CHAMPION, CANDIDATE):
        try:
            return fetch(f"models:/{PROJECT}@{alias}", download_to)
        except NoSuchVersionError:
            continue
    raise NotFoundError(
        f"no model {PROJECT}@{CHAMPION} or @{CANDIDATE} is registered in the MLflow store: train "
        "one with `corrfractal train`, or name a model with --model"
    )


def fetch(uri: str, download_to: Path | None) -> StoredModel:
    """Look up a model in the store of MLFLOW_TRACKING_URI, and fetch its weights.

    Args:
        uri: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``runs:/ID/model``.
        download_to: folder for the weights; default: read a local store's file in place, and
            download from a server to a temporary folder.

    Raises:
        NotFoundError: no such store, model, version or run.
        CallError: the name is malformed, or the model has several safetensors files.
        IntegrityError: its files are missing or unreadable.
        CorrFractalError: the store cannot be used.
    """
    store = tracking_uri()
    if not open_store(store):
        raise NotFoundError(
            f"no model {uri}: the MLflow store {local_file(store)} does not exist; train a model "
            "with `corrfractal train`, set MLFLOW_TRACKING_URI, or name a model file with --model"
        )

    # A run's model may not be registered; its run is in the name.
    if match := re.fullmatch(r"runs:/([0-9a-f]{32})/.+", uri):
        weights = download_weights(uri, download_to)
        return StoredModel(uri=uri, weights=weights, run_id=match[1], registered=None)
    if not re.fullmatch(r"models:/[^/@]+[/@][^/@]+", uri):
        raise CallError(
            f"cannot read the model name {uri}: write models:/NAME@ALIAS, models:/NAME/3 or "
            "runs:/ID/model"
        )
    record = lookup(uri)
    # An alias may move during a long evaluation, a version number stays.
    fixed = f"models:/{record.name}/{record.version}"
    return StoredModel(
        uri=fixed,
        weights=download_weights(fixed, download_to),
        run_id=record.run_id or None,
        registered=(record.name, str(record.version)),
    )


def download_weights(uri: str, folder: Path | None) -> Path:
    """Fetch the weights of a model in MLflow's current store.

    Args:
        uri: ``models:/NAME/VERSION`` or ``runs:/ID/model``.
        folder: as ``download_to`` in ``fetch``.

    Raises:
        NotFoundError: no such model.
        CallError: the model has several safetensors files.
        IntegrityError: its files are missing or unreadable.
        CorrFractalError: the store fails.
    """
    import mlflow

    with mlflow_errors(model=uri):
        paths = list(_list_weights(uri))
        if not paths:
            raise IntegrityError(
                f"the model {uri} is in the MLflow store, but its weights are missing from "
                f"{_location(uri)}: restore that folder, or name another model with --model"
            )
        path = only_weights(paths, uri)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{uri}/{path}", dst_path=None if folder is None else str(folder)
            )
        )


def only_weights(paths: list[str], where: str) -> str:
    """The single safetensors file of a model folder.

    Raises:
        CallError: there is none, or more than one.
    """
    if len(paths) != 1:
        found = ", ".join(paths) or "none"
        raise CallError(
            f"the model {where} should hold exactly one .safetensors file, found: {found}"
        )
    return paths[0]


def _list_weights(uri: str, folder: str = "") -> Iterator[str]:
    """Paths of the safetensors files below an MLflow URI, relative to it."""
    import mlflow

    for entry in mlflow.artifacts.list_artifacts(artifact_uri=f"{uri}/{folder}" if folder else uri):
        name = Path(entry.path).name
        relative = f"{folder}/{name}" if folder else name
        # Each folder costs requests, and MLflow's copy of our package has many.
        if entry.is_dir and relative != CODE_FOLDER:
            yield from _list_weights(uri, relative)
        elif name.endswith(".safetensors"):
            yield relative


def _location(uri: str) -> str:
    """The folder or URL of a model's artefacts; the URI itself for a run's model."""
    import mlflow

    if uri.startswith("models:/"):
        name, version = uri.removeprefix("models:/").rsplit("/", 1)
        return str(mlflow.MlflowClient().get_model_version_download_uri(name, version))
    return uri
