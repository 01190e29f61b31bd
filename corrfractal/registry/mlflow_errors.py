"""Turn the exceptions of MLflow and its libraries into one sentence that names the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from corrfractal.common.errors import CallError, CorrFractalError, IntegrityError, NotFoundError
from corrfractal.common.text import without_password
from corrfractal.registry.store.availability import login_refused, no_answer
from corrfractal.registry.store.sqlite_store import sqlite_error

from .store import local_file

LOGIN_CODES = ("CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED", "PERMISSION_DENIED")
"""MLflow's error codes for HTTP 401 and 403."""
MISSING_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
"""MLflow's error codes for a model, version, alias or run that does not exist."""


class NoSuchVersionError(NotFoundError):
    """The store answers, but holds no such model or run."""


@contextmanager
def mlflow_errors(uri: str | None = None, *, model: str | None = None) -> Iterator[None]:
    """Re-raise exceptions of MLflow and of the libraries below it as ``CorrFractalError``.

    Args:
        uri: the store that is used; default MLflow's current one.
        model: the model or run that is looked up: a missing one raises ``NoSuchVersionError``,
            unreadable files of one ``IntegrityError``.

    Raises:
        CorrFractalError: in place of the original error.
    """
    try:
        yield
    except CorrFractalError:
        raise
    except Exception as exc:
        # Bugs of our own keep their traceback.
        if not (is_store_error(exc) or isinstance(exc, (OSError, ImportError))):
            raise
        if model is not None and getattr(exc, "error_code", None) in MISSING_CODES:
            raise NoSuchVersionError(
                f"no such model: {model} ({first_line(exc).rstrip('.')}); `corrfractal models "
                "list` shows the registered ones"
            ) from exc
        if model is not None and isinstance(exc, OSError) and not _is_http_error(exc):
            raise IntegrityError(f"the files of the model {model} cannot be read: {exc}") from exc
        raise store_error(exc, uri or current_store()) from exc


def is_store_error(exc: BaseException) -> bool:
    """Whether an exception class is defined by MLflow or by a library that it stores with."""
    packages = {kind.__module__.partition(".")[0] for kind in type(exc).__mro__}
    return bool(packages & {"mlflow", "sqlalchemy", "alembic", "sqlite3"})


def describe_store_error(exc: BaseException) -> str | None:
    """A sentence for ``describe_error`` about an error that no ``mlflow_errors`` block caught."""
    return str(store_error(exc, current_store())) if is_store_error(exc) else None


def current_store() -> str:
    """The URI of the store that MLflow currently uses."""
    import mlflow

    return str(mlflow.get_tracking_uri())


def store_error(exc: BaseException, uri: str) -> CorrFractalError:
    """Describe a store's exception in one sentence that names the store and hides passwords."""
    shown = without_password(uri)
    if getattr(exc, "error_code", None) in LOGIN_CODES:
        return login_refused(uri)

    file = local_file(uri)
    message = first_line(exc).rstrip(".")
    # MLflow wraps the error of SQLite, SQLAlchemy or requests; the first known cause decides.
    for cause in _causes(exc):
        if file is not None and isinstance(cause, sqlite3.Error):
            return sqlite_error(cause, file)
        if _is_http_error(cause) or "API request to" in str(cause):
            return no_answer(uri, message)
        if isinstance(cause, ImportError):
            return CallError(
                f"the MLflow store {shown} needs a package that is not installed: {message}"
            )
        if isinstance(cause, OSError):
            where = f" ({cause.filename})" if cause.filename else ""
            return CorrFractalError(f"the MLflow store {shown}: {cause.strerror or message}{where}")
    return CorrFractalError(f"the MLflow store {shown} failed: {message}")


def first_line(exc: BaseException) -> str:
    """The first line of an error's message, at most 200 characters, with passwords hidden."""
    return without_password(next(iter(str(exc).splitlines()), type(exc).__name__))[:200]


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """An error and the errors that it wraps, outermost first."""
    cause: BaseException | None = exc
    while cause is not None:
        yield cause
        wrapped = getattr(cause, "orig", None)  # SQLAlchemy keeps the driver's error here
        if isinstance(wrapped, BaseException):
            yield wrapped
        cause = cause.__cause__ or cause.__context__


def _is_http_error(exc: BaseException) -> bool:
    return any(kind.__module__.startswith(("requests", "urllib3")) for kind in type(exc).__mro__)
