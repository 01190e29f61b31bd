"""Resume a run in the MLflow store that it began with, from whatever folder the command is given."""

from __future__ import annotations

import os
from pathlib import Path

from corrfractal.common.errors import CallError
from corrfractal.common.text import without_password
from corrfractal.registry.connection import open_store
from corrfractal.registry.mlflow_errors import NoSuchVersionError, mlflow_errors
from corrfractal.registry.store import check_store, holds_run, local_file, sqlite_uri, tracking_uri
from training.job import TrainingJob


def store_of_run(held: TrainingJob, out: Path, named: str | None) -> str:
    """The store that holds a run.

    Args:
        held: the job as the run's folder tells it; without passwords.
        out: the run's folder as it is named now; it may have been moved or copied with the store.
        named: the store that the user names, if any.

    Raises:
        CallError: the run is not in the store that is named, or its store is gone.
        CorrFractalError: the store cannot be used.
    """
    if named is not None:
        if not _is(named, held.tracking_uri) and not _holds(named, held.run_id):
            raise CallError(
                f"the run in {out} is recorded in the MLflow store {held.tracking_uri}, not in "
                f"{without_password(named)}: name that store (--tracking-uri, MLFLOW_TRACKING_URI) "
                "or another --out"
            )
        return _checked(named)
    file = local_file(held.tracking_uri)
    if file is None:
        if "***@" in held.tracking_uri:
            raise CallError(
                f"the run in {out} is recorded in the MLflow store {held.tracking_uri}: "
                "set MLFLOW_TRACKING_URI to it, with its password"
            )
        return _checked(held.tracking_uri)
    beside = out / os.path.relpath(file, held.out)
    here = local_file(tracking_uri())
    for candidate in (Path(os.path.normpath(beside)), file, here):
        if candidate is not None and holds_run(candidate, held.run_id):
            return _checked(sqlite_uri(candidate))
    if file.exists():
        check_store(sqlite_uri(file), write=True)  # says so if it is locked or damaged
        what = "that store no longer holds it"
    else:
        what = "that file does not exist"
    raise CallError(
        f"the run in {out} is recorded in the MLflow store {file}, and {what}: "
        "name its present place with --tracking-uri, or another --out to train anew"
    )


def _is(named: str, held: str) -> bool:
    return without_password(named) == held or (
        local_file(named) is not None and local_file(named) == local_file(held)
    )


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


def _checked(uri: str) -> str:
    """A local store must be usable now; a server that is away costs a resumed run nothing."""
    if local_file(uri) is not None and not check_store(uri, write=True):
        raise CallError(
            f"the MLflow store {local_file(uri)} does not exist, and a run is recorded in it"
        )
    return uri
