"""Find the MLflow store of an existing run, from whatever folder the command is given."""

from __future__ import annotations

import os
from pathlib import Path

from corrfractal.common.errors import CallError
from corrfractal.common.text import without_password
from corrfractal.files.storage import Location, is_uri
from corrfractal.registry.connection import open_store
from corrfractal.registry.mlflow_errors import NoSuchVersionError, mlflow_errors
from corrfractal.registry.store import check_store, holds_run, local_file, sqlite_uri, tracking_uri
from training.job import TrainingJob


def store_of_run(existing: TrainingJob, out: Location, named: str | None) -> str:
    """The store that holds a run.

    Args:
        existing: the job as stored in the run's folder, without passwords.
        out: the run's folder as it is named now; it may have been moved or copied with the store.
        named: the store that the user names, if any.

    Raises:
        CallError: the named store does not hold the run, or the run's own store does not exist.
        CorrFractalError: the store cannot be used.
    """
    if named is not None:
        return _named_store(existing, out, named)
    file = local_file(existing.tracking_uri)
    if file is not None:
        return _local_store(existing, out, file)

    if "***@" in existing.tracking_uri:
        raise CallError(
            f"the run in {out} is recorded in the MLflow store {existing.tracking_uri}: "
            "set MLFLOW_TRACKING_URI to it, with its password"
        )
    # Not contacted: a resumed run does not need the server, which may be down.
    return existing.tracking_uri


def _named_store(existing: TrainingJob, out: Location, named: str) -> str:
    if not _same_store(named, existing.tracking_uri) and not _holds(named, existing.run_id):
        raise CallError(
            f"the run in {out} is recorded in the MLflow store {existing.tracking_uri}, not in "
            f"{without_password(named)}: name that store (--tracking-uri, MLFLOW_TRACKING_URI) "
            "or another --out"
        )
    file = local_file(named)
    if file is not None and not check_store(named, write=True):
        raise CallError(f"the MLflow store {file} does not exist, and a run is recorded in it")
    return named


def _local_store(existing: TrainingJob, out: Location, file: Path) -> str:
    """Search for the SQLite file of a run: moved together with the folder, at its original place,
    or in the working folder."""
    candidates = [file, local_file(tracking_uri())]
    if not (is_uri(out) or is_uri(existing.out)):
        candidates.insert(
            0, Path(os.path.normpath(Path(out) / os.path.relpath(file, existing.out)))
        )
    for candidate in candidates:
        if candidate is not None and holds_run(candidate, existing.run_id):
            uri = sqlite_uri(candidate)
            check_store(uri, write=True)
            return uri

    if file.exists():
        check_store(sqlite_uri(file), write=True)  # raises if it is locked or damaged
        what = "that store no longer holds it"
    else:
        what = "that file does not exist"
    raise CallError(
        f"the run in {out} is recorded in the MLflow store {file}, and {what}: "
        "name its present place with --tracking-uri, or another --out to start a new run"
    )


def _same_store(named: str, stored: str) -> bool:
    if without_password(named) == stored:
        return True
    file = local_file(named)
    return file is not None and file == local_file(stored)


def _holds(uri: str, run_id: str) -> bool:
    file = local_file(uri)
    if file is not None:
        return check_store(uri, write=True) and holds_run(file, run_id)
    import mlflow

    open_store(uri)
    try:
        with mlflow_errors(model=run_id):
            mlflow.MlflowClient(uri).get_run(run_id)
    except NoSuchVersionError:
        return False
    return True
