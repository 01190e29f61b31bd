"""Open an MLflow store. MLflow is imported only when a function is called."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from corrfractal.common.errors import CallError, CorrFractalError, NotFoundError
from corrfractal.common.foreign_errors import add_description
from corrfractal.common.logs import limit_libraries
from corrfractal.common.text import without_password
from corrfractal.registry.store.addresses import DATABASE_PORTS, OTHER_STORE_HINT, artifacts_uri
from corrfractal.registry.store.relocation import update_locations
from corrfractal.registry.store.sqlite_store import store_lock
from corrfractal.runtime.process import configure_process

from .mlflow_errors import describe_store_error, first_line, mlflow_errors
from .names import EXPERIMENT_KIND, PROJECT, STORE_TAG
from .store import check_store, local_file, sqlite_uri, tracking_uri

log = logging.getLogger(__name__)


def open_store(uri: str, *, write: bool = False) -> bool:
    """Check a store, update its locations if it was moved, and select it in MLflow.

    Args:
        uri: from ``store.tracking_uri``.
        write: the caller is going to write to it.

    Returns:
        Whether it exists; a local store that does not exist is not created.

    Raises:
        CorrFractalError: the store cannot be used; see ``store.check_store``.
    """
    import mlflow

    configure_mlflow()
    # Before MLflow, which retries an unreachable server for minutes
    exists = check_store(uri, write=write)
    file = local_file(uri)
    if file is None:
        _check_database(uri)
    elif exists:
        _update_locations(file, write)
    mlflow.set_tracking_uri(uri)
    return exists


def existing_store(given: str | None = None, *, write: bool = False) -> str:
    """Open the named store, else that of the working directory; never create one.

    Returns:
        Its URI.

    Raises:
        NotFoundError: a local store does not exist; names the file.
        CorrFractalError: the store cannot be used.
    """
    uri = tracking_uri(given)
    if not open_store(uri, write=write):
        raise NotFoundError(
            f"no model is registered: the MLflow store {local_file(uri)} does not exist; train a "
            "model with `corrfractal train`, or set MLFLOW_TRACKING_URI"
        )
    return uri


def open_experiment(uri: str) -> str:
    """Open a store for writing; create the store and its experiment if necessary.

    Returns:
        The experiment's id.

    Raises:
        CorrFractalError: the store cannot be used.
    """
    import mlflow

    file = local_file(uri)
    if not open_store(uri, write=True) and file is not None:
        create_store(file)
    # A server chooses its own artefact location.
    location = None if file is None else artifacts_uri(file)
    tags = dict(EXPERIMENT_KIND)
    if file is not None:
        tags[STORE_TAG] = str(file)

    with mlflow_errors():
        experiment = mlflow.get_experiment_by_name(PROJECT)
        if experiment is None:
            try:
                return str(mlflow.create_experiment(PROJECT, location, tags))
            except mlflow.exceptions.MlflowException as exc:
                # Another process may have created it after our query.
                if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = mlflow.get_experiment_by_name(PROJECT)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise CallError(
            f"the experiment '{PROJECT}' was deleted from {without_password(uri)}: restore it "
            f"with `mlflow experiments restore`, or {OTHER_STORE_HINT}"
        )
    _set_kind(experiment)
    return str(experiment.experiment_id)


def create_store(file: Path) -> None:
    """Create a local store and its experiment; a no-op if another process creates it first.

    MLflow's migrations must not run twice at once, and cannot resume after a crash. They run under
    a lock on a temporary file, which is renamed when complete.

    Raises:
        CorrFractalError: the store cannot be written, or another process holds the lock too long.
    """
    from mlflow.entities import ExperimentTag
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    configure_mlflow()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise CorrFractalError(
            f"the folder of the MLflow store {file} cannot be created ({exc.strerror}): "
            f"{OTHER_STORE_HINT}"
        ) from exc
    with store_lock(file):
        # Another process may have created it while this one waited for the lock.
        if check_store(sqlite_uri(file), write=True):
            return

        temporary = file.with_name(f".{file.name}.new")
        leftovers = (temporary, temporary.with_name(f"{temporary.name}-journal"))
        location = artifacts_uri(file)
        with mlflow_errors(sqlite_uri(file)):
            # A process that was killed may have left an incomplete file.
            for leftover in leftovers:
                leftover.unlink(missing_ok=True)
            try:
                store = SqlAlchemyStore(sqlite_uri(temporary), location)
                tags = {STORE_TAG: str(file), **EXPERIMENT_KIND}
                store.create_experiment(
                    PROJECT, location, [ExperimentTag(key, value) for key, value in tags.items()]
                )
                store.engine.dispose()
                temporary.replace(file)
            finally:
                for leftover in leftovers:
                    leftover.unlink(missing_ok=True)


def configure_mlflow() -> None:
    """Set MLflow's environment variables and the levels of its loggers, and describe its errors.

    Call it after importing MLflow, which sets levels of its own.
    """
    configure_process()
    limit_libraries()
    add_description(describe_store_error)


def _set_kind(experiment: Any) -> None:
    """Add ``EXPERIMENT_KIND`` to an experiment of an earlier version; keep a kind a user chose."""
    import mlflow

    for key, value in EXPERIMENT_KIND.items():
        if key in experiment.tags:
            continue
        try:
            mlflow.MlflowClient().set_experiment_tag(experiment.experiment_id, key, value)
        except mlflow.exceptions.MlflowException as exc:
            # Another account may own the experiment. Only the look of a page depends on this.
            log.info("the experiment '%s' keeps its kind: %s", PROJECT, first_line(exc))


def _update_locations(file: Path, write: bool) -> None:
    try:
        former = update_locations(file)
    except CorrFractalError as exc:
        if write or (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
            raise
        # A read-only archive, or another user's project: its versions can still be listed.
        log.warning(
            "this store was moved or copied, and its artefact locations still point to the former "
            "place: %s",
            exc,
        )
        return
    if former is not None:
        log.info("the MLflow store %s is now %s: its artefact locations were updated", former, file)


def _check_database(uri: str) -> None:
    """Connect once to a database server: MLflow would retry a wrong password for two minutes."""
    if uri.partition(":")[0].partition("+")[0] not in DATABASE_PORTS:
        return
    import sqlalchemy

    with mlflow_errors(uri):
        engine = sqlalchemy.create_engine(uri)
        engine.connect().close()
        engine.dispose()
