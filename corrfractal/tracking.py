"""Where runs are kept in MLflow, and how a data set is named there: what all stages that track have in common.

The only file of this package that imports MLflow, and only when it is called.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from . import storage
from .errors import CallError, CorrFractalError
from .manifest import MANIFEST, load_manifest, load_sidecar
from .runtime import sqlite_file, without_password

EXPERIMENT = "corrfractal"
SHARD_MAP = "shards.json"
DIGEST_TAG = "shards.digest"
DECISIVE = ("torch", "numpy", "faiss-cpu", "decord2", "ray", "mlflow")  # packages whose versions are tags of a run
REFUSED = ("CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED")  # both are HTTP's 401
ROOT = Path(__file__).resolve().parents[1]


def tracking_uri(given: str | None = None) -> str:
    """Where runs and models are kept: the argument, ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def open_experiment(uri: str) -> str:
    """Point MLflow at a store; return the experiment's id, made if new. A local store keeps artefacts beside itself.

    Raises:
        CallError: the server refuses the login.
        CorrFractalError: it does not answer.
    """
    import mlflow

    for chatty in ("alembic", "mlflow.store", "mlflow.tracking.fluent"):  # a line per table on first use
        logging.getLogger(chatty).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(uri)
    location = None
    if (store := sqlite_file(uri)) is not None:
        location = (store.parent / "mlartifacts").as_uri()
    try:
        found = mlflow.get_experiment_by_name(EXPERIMENT)
        return str(found.experiment_id if found else mlflow.create_experiment(EXPERIMENT, artifact_location=location))
    except mlflow.exceptions.MlflowException as exc:
        raise store_error(exc, uri) from exc


def store_error(exc: Exception, uri: str) -> CorrFractalError:
    """What MLflow raised over a store, as an error whose one sentence names the store and shows no password."""
    shown = without_password(uri)
    if getattr(exc, "error_code", None) in REFUSED:
        return CallError(
            f"the MLflow server at {shown} refuses the login: "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user that it knows"
        )
    return CorrFractalError(f"the MLflow store {shown} did not answer: {first_line(exc).rstrip('.')}")


def first_line(exc: Exception) -> str:
    """The first line of what an error says, for people; a password in a URI is not shown."""
    return without_password(next(iter(str(exc).splitlines()), type(exc).__name__))[:200]


def data_set(shards: str | Path, shards_digest: str) -> Any:
    """A folder of shards as an MLflow data set."""
    import mlflow

    with warnings.catch_warnings():
        # MLflow registers two equal readings of a local path and says so each time.
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
        source = mlflow.data.dataset_source_registry.resolve_dataset_source(str(shards))
    # The store holds 36 characters of a digest; the whole one is a tag of the run and of the model version.
    return mlflow.data.meta_dataset.MetaDataset(source, name=Path(str(shards)).name, digest=shards_digest[:36])


def describe_run(shards: str | Path, shards_digest: str, stage: str) -> None:
    """Tell the active run what it works on, and with what code: tags, data set, installed packages, and what lineage
    needs when the shards themselves are gone.

    Args:
        shards: folder with ``manifest.json``.
        shards_digest: of the manifest.
        stage: ``precompute`` or ``train``.
    """
    import mlflow

    mlflow.set_tags({DIGEST_TAG: shards_digest, "shards.path": str(shards), "stage": stage, **code_state()})
    mlflow.log_input(data_set(shards, shards_digest), context=stage)
    mlflow.log_text(_environment(), "environment.txt")
    _log_shards(shards)


def code_state() -> dict[str, str]:
    """What code runs, as tags: the commit, whether files differ from it, and the versions that decide numbers.

    Without git, or outside a checkout of this project (an image, an installed wheel), the commit is ``unknown``.
    """
    found = {"git.commit": "unknown", "git.dirty": "unknown"}
    if _git("rev-parse", "--show-toplevel") == str(ROOT):  # not the repository of something around us
        commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
        if commit is not None and status is not None:
            found = {"git.commit": commit, "git.dirty": str(bool(status)).lower()}
    installed = {p.metadata["Name"]: p.version for p in metadata.distributions()}
    versions = {name: installed[name] for name in ("corrfractal", *DECISIVE) if name in installed}
    return {**found, **{f"version.{k}": v for k, v in {"python": platform.python_version(), **versions}.items()}}


def _environment() -> str:
    """All installed packages, one ``name==version`` a line."""
    return "".join(sorted({f"{p.metadata['Name']}=={p.version}\n" for p in metadata.distributions()}))


def _log_shards(shards: str | Path) -> None:
    """The manifest, and ``shards.json``: name of a shard -> SHA-256 of the videos in it."""
    import mlflow

    manifest = load_manifest(shards)
    holds = {
        shard.name: sorted({source.sha256 for source in load_sidecar(shards, shard).sources if source.clips})
        for shard in manifest.shards
    }
    mlflow.log_text(storage.read(storage.join(shards, MANIFEST)).decode(), MANIFEST)
    mlflow.log_text(json.dumps({"digest": manifest.digest, "shards": holds}, indent=1), SHARD_MAP)


def _git(*arguments: str) -> str | None:
    """What git answers, or None where it cannot."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
