"""Addresses of MLflow stores. No other module builds or parses a store URI.

SQLAlchemy percent-decodes the path of a SQLite URI and ends the path at ``?``, so ``%``, ``?`` and
``#`` in file names are percent-encoded. For a URI that starts with ``sqlite:///`` MLflow creates
the parent folder of the *encoded* path. Other prefixes it leaves alone, so a URI with encoded
characters also names the driver (``sqlite+pysqlite:///``).
"""

from __future__ import annotations

import os
import re
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote

from corrfractal.common.errors import CallError
from corrfractal.common.text import without_password

DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Database servers that MLflow supports, with their default ports."""
SCHEMES = ("sqlite", "http", "https", "databricks", "databricks-uc", "uc", *DATABASE_PORTS)
ARTIFACTS = "mlartifacts"
"""Folder of a local store's artefacts, next to its database file."""
OTHER_STORE_HINT = "name another store with --tracking-uri or MLFLOW_TRACKING_URI"


def named_uri(given: str | None = None) -> str | None:
    """The store named by an argument, else by ``MLFLOW_TRACKING_URI``; None if neither is set.

    Raises:
        CallError: the value is not the address of a store.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    return canonical_uri(uri) if uri else None


def tracking_uri(given: str | None = None, folder: Path | None = None) -> str:
    """The named store; default ``mlflow.db`` in ``folder`` (default: the working directory).

    Raises:
        CallError: the value is not the address of a store.
    """
    return named_uri(given) or sqlite_uri((folder or Path()) / "mlflow.db")


def canonical_uri(uri: str, folder: Path | None = None) -> str:
    """A store URI with an absolute path; relative paths are resolved against ``folder``.

    Raises:
        CallError: the value is not the address of a store.
    """
    _check_scheme(uri)
    file = sqlite_file(uri)
    if file is None:
        return uri

    query = uri.partition("?")[2]
    return sqlite_uri((folder or Path()) / file) + (f"?{query}" if query else "")


def sqlite_uri(file: Path) -> str:
    """The URI of a local store; only ``%``, ``?``, ``#`` and control characters are encoded.

    Raises:
        CallError: the path is not UTF-8, which SQLite cannot open.
    """
    path = str(file.absolute())
    try:
        path.encode()
    except UnicodeEncodeError as exc:
        shown = path.encode(errors="backslashreplace").decode()
        raise CallError(
            f"MLflow cannot keep a store at {shown}, a name that is not UTF-8: rename it, or "
            f"{OTHER_STORE_HINT}"
        ) from exc
    encoded = re.sub(r"[%?#\x00-\x1f\x7f]", lambda match: f"%{ord(match[0]):02X}", path)
    return f"sqlite:///{path}" if encoded == path else f"sqlite+pysqlite:///{encoded}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a local store as the URI names it; None for other kinds of stores.

    Raises:
        CallError: the URI is malformed.
    """
    match = re.fullmatch(r"sqlite(?:\+pysqlite)?:(?://)?(?:/([^?]*))?(?:\?(.*))?", uri, re.DOTALL)
    if match is None:
        return None

    path, query = match.groups()
    # "?" starts the query, so an unencoded one in a file name shows up as a malformed query.
    if query and not all(re.fullmatch(r"\w+=.*", part) for part in query.split("&")):
        raise CallError(
            f"cannot read the store URI {uri}: in a file name, '?' is written %3F and '%' is %25"
        )
    if not path or path == ":memory:" or path.startswith("file:"):
        raise CallError(
            f"the store URI {uri} names no file: write sqlite:////absolute/path/mlflow.db"
        )
    return Path(unquote(path))


def local_file(uri: str) -> Path | None:
    """The absolute path of a local store; None for other kinds of stores."""
    file = sqlite_file(uri)
    return None if file is None else file.absolute()


def artifacts_uri(file: Path) -> str:
    """The ``file://`` URI of a local store's artefact folder."""
    return (file.parent / ARTIFACTS).as_uri()


def _check_scheme(uri: str) -> None:
    scheme = uri.partition(":")[0].lower() if ":" in uri else ""
    if scheme in ("", "file") or "/" in scheme:
        raise CallError(
            f"the MLflow store {uri} is a plain file or folder, which MLflow 3 does not support: "
            "write sqlite:///mlflow.db, or the URL of a server"
        )
    # Packages can add schemes to MLflow.
    plugins = {plugin.name for plugin in entry_points(group="mlflow.tracking_store")}
    if scheme.split("+")[0] not in (*SCHEMES, *plugins):
        raise CallError(
            f"the MLflow store {without_password(uri)} has an unsupported scheme: "
            "write sqlite:///mlflow.db, or the URL of a server"
        )
