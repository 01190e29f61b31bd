"""Open an MLflow store, and turn its errors into sentences.

MLflow is imported only when a function is called. What can be known of a store without MLflow is in
``store``.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corrfractal.common.console import say
from corrfractal.common.errors import CallError, CorrFractalError, IntegrityError, NotFoundError
from corrfractal.common.process import configure_process
from corrfractal.common.text import without_password

from .store import (
    ANOTHER,
    STORE_TAG,
    artifacts_uri,
    check_store,
    local_file,
    login_refused,
    no_answer,
    sqlite_error,
    sqlite_uri,
    store_lock,
    tracking_uri,
)
from .store_moves import EXPERIMENT, mend_locations

REFUSED = ("CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED", "PERMISSION_DENIED")  # HTTP's 401 and 403
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


class NoSuchVersionError(NotFoundError):
    """The store answers, and holds no such model or run."""


def open_store(uri: str, *, write: bool = False) -> bool:
    """Check a store, mend it if it was moved, and point MLflow at it.

    Args:
        uri: from ``store.tracking_uri``.
        write: it is going to be written to.

    Returns:
        Whether it exists; False for a local one that is yet to be created, which is left so.

    Raises:
        CorrFractalError: the store cannot be used; see ``store.check_store``.
    """
    import mlflow

    settle_mlflow()
    exists = check_store(uri, write=write)
    file = local_file(uri)
    if file is None:
        _check_database(uri)
    elif exists:
        _mend(file, write)
    mlflow.set_tracking_uri(uri)
    return exists


def _mend(file: Path, write: bool) -> None:
    try:
        former = mend_locations(file)
    except CorrFractalError as exc:
        if write or (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
            raise
        # An archive, or a project of somebody else: its lists can be read all the same.
        say(
            "warning: this store was moved or copied, and its artefact locations are still those "
            f"of the former place: {exc}"
        )
        return
    if former is not None:
        say(f"the MLflow store {former} is now {file}: its artefact locations were updated")


def existing_store(given: str | None = None, *, write: bool = False) -> str:
    """Open the store that is named, or the one of the working folder; nothing is ever created.

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
    """Open a store to write to it, creating store and experiment if new; return the experiment's
    id.

    Raises:
        CorrFractalError: the store cannot be used.
    """
    import mlflow

    file = local_file(uri)
    if not open_store(uri, write=True) and file is not None:
        create_store(file)
    location = None if file is None else artifacts_uri(file)
    tags = None if file is None else {STORE_TAG: str(file)}
    with mlflow_errors():
        found = mlflow.get_experiment_by_name(EXPERIMENT)
        if found is None:
            try:
                return str(mlflow.create_experiment(EXPERIMENT, location, tags))
            except mlflow.exceptions.MlflowException as exc:
                if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = mlflow.get_experiment_by_name(EXPERIMENT)  # another process was first
    if found is None or found.lifecycle_stage != "active":
        raise CallError(
            f"the experiment '{EXPERIMENT}' was deleted from {without_password(uri)}: restore it "
            f"with `mlflow experiments restore`, or {ANOTHER}"
        )
    return str(found.experiment_id)


def create_store(file: Path) -> None:
    """Create a local store with the experiment in it, unless another process does so first.

    MLflow's migrations must not run twice at once, and a killed one cannot be resumed: they run,
    under a lock, on a temporary file that is renamed when it is complete.

    Raises:
        CorrFractalError: it cannot be written, or another process takes too long.
    """
    from mlflow.entities import ExperimentTag
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    settle_mlflow()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise CorrFractalError(
            f"the folder of the MLflow store {file} cannot be created ({exc.strerror}): {ANOTHER}"
        ) from exc
    with store_lock(file):
        if check_store(sqlite_uri(file), write=True):
            return
        temporary = file.with_name(f".{file.name}.new")
        leftovers = (temporary, temporary.with_name(f"{temporary.name}-journal"))
        location = artifacts_uri(file)
        with mlflow_errors(sqlite_uri(file)):
            for leftover in leftovers:  # of a process that was killed
                leftover.unlink(missing_ok=True)
            try:
                store = SqlAlchemyStore(sqlite_uri(temporary), location)
                store.create_experiment(EXPERIMENT, location, [ExperimentTag(STORE_TAG, str(file))])
                store.engine.dispose()
                temporary.replace(file)
            finally:
                for leftover in leftovers:
                    leftover.unlink(missing_ok=True)


def settle_mlflow() -> None:
    """Set MLflow's environment, and hide the log lines whose contents our errors repeat.

    What MLflow logs about a failing store, with a traceback, becomes one sentence of ours.
    """
    configure_process()
    for chatty in ("alembic", "mlflow.tracking.fluent"):  # a line per table on first use
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for chatty in ("mlflow.store", "mlflow.store.db.utils"):  # the traceback of a locked data base
        logging.getLogger(chatty).setLevel(logging.CRITICAL)


def _check_database(uri: str) -> None:
    """Connect once to a database server: MLflow would try a wrong password for two minutes."""
    if uri.partition(":")[0].partition("+")[0] not in ("postgresql", "mysql", "mssql"):
        return
    import sqlalchemy

    with mlflow_errors(uri):
        engine = sqlalchemy.create_engine(uri)
        engine.connect().close()
        engine.dispose()


@contextmanager
def mlflow_errors(uri: str | None = None, *, model: str | None = None) -> Iterator[None]:
    """Turn whatever MLflow and what is beneath it raise into one sentence.

    Args:
        uri: of the store; None is the one that MLflow points at.
        model: what is looked for: if the store does not hold it, raise ``NoSuchVersionError``.

    Raises:
        CorrFractalError: instead of the error.
    """
    try:
        yield
    except CorrFractalError:
        raise
    except Exception as exc:
        if not (is_store_error(exc) or isinstance(exc, (OSError, ImportError))):
            raise
        import mlflow

        if model is not None and getattr(exc, "error_code", None) in MISSING:
            raise NoSuchVersionError(
                f"no such model: {model} ({first_line(exc).rstrip('.')}); `corrfractal models "
                "list` shows what there is"
            ) from exc
        if model is not None and isinstance(exc, OSError) and not _by_requests(exc):
            raise IntegrityError(f"the files of the model {model} cannot be read: {exc}") from exc
        raise store_error(exc, uri or mlflow.get_tracking_uri()) from exc


def is_store_error(exc: BaseException) -> bool:
    """Whether an exception is one of MLflow, or of the packages that it keeps a store with."""
    packages = {kind.__module__.partition(".")[0] for kind in type(exc).__mro__}
    return bool(packages & {"mlflow", "sqlalchemy", "alembic", "sqlite3"})


def shown_store() -> str:
    """The URI of the store that MLflow points at."""
    import mlflow

    return str(mlflow.get_tracking_uri())


def store_error(exc: BaseException, uri: str) -> CorrFractalError:
    """An exception over a store, as one sentence that names the store and shows no password."""
    shown = without_password(uri)
    if getattr(exc, "error_code", None) in REFUSED:
        return login_refused(uri)
    file = local_file(uri)
    said = first_line(exc).rstrip(".")
    for cause in _causes(exc):
        if file is not None and isinstance(cause, sqlite3.Error):
            return sqlite_error(cause, file)
        if _by_requests(cause) or "API request to" in str(cause):
            return no_answer(uri, said)
        if isinstance(cause, ImportError):
            return CallError(
                f"the MLflow store {shown} needs a package that is not installed: {said}"
            )
        if isinstance(cause, OSError):
            where = f" ({cause.filename})" if cause.filename else ""
            return CorrFractalError(f"the MLflow store {shown}: {cause.strerror or said}{where}")
    return CorrFractalError(f"the MLflow store {shown} failed: {said}")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """An error, what it wraps and what that wraps."""
    found: BaseException | None = exc
    while found is not None:
        yield found
        wrapped = getattr(found, "orig", None)  # SQLAlchemy's
        if isinstance(wrapped, BaseException):
            yield wrapped
        found = found.__cause__ or found.__context__


def _by_requests(exc: BaseException) -> bool:
    return any(kind.__module__.startswith(("requests", "urllib3")) for kind in type(exc).__mro__)


def first_line(exc: BaseException) -> str:
    """The first line of what an error says, for people; a password in a URI is not shown."""
    return without_password(next(iter(str(exc).splitlines()), type(exc).__name__))[:200]
