"""``check_store``: can this store be used? Answered without MLflow, before any expensive work.

MLflow retries an unreachable server for minutes and reports a traceback. Here every fault is one
sentence, found within ``ANSWER_SECONDS`` (servers) or ``sqlite_store.LOCK_SECONDS`` (local files).
"""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from corrfractal.common.errors import CallError, CorrFractalError
from corrfractal.common.text import without_password

from .addresses import DATABASE_PORTS, OTHER_STORE_HINT, canonical_uri, local_file
from .sqlite_store import check_sqlite

ANSWER_SECONDS = 10.0
"""Timeout for a server to answer."""
PROBE = "/api/2.0/mlflow/experiments/get?experiment_id=0"
"""Cheapest request that needs a login: any answer but 401 shows that the server works."""


def check_store(uri: str, *, write: bool) -> bool:
    """Check that a store can be used.

    Args:
        uri: from ``tracking_uri``.
        write: also check that it can be written to.

    Returns:
        Whether the store exists; False for a local one that has not been created yet.

    Raises:
        CallError: the address is not a store, the store belongs to another version of MLflow, the
            server refuses the login, or MLFLOW_REGISTRY_URI names a different store.
        IntegrityError: the store is damaged.
        CorrFractalError: the store is locked, unreadable, unwritable, or does not answer.
    """
    _check_registry_uri(uri)
    file = local_file(uri)
    if file is not None:
        return check_sqlite(file, write)

    # Stores of other schemes (plugins, Databricks) are checked by MLflow alone.
    parts = _split(uri)
    scheme = parts.scheme.split("+")[0]
    if scheme in ("http", "https"):
        _check_http_server(uri, parts)
    elif scheme in DATABASE_PORTS:
        _check_port(uri, parts.hostname or "127.0.0.1", parts.port or DATABASE_PORTS[scheme])
    return True


def login_refused(uri: str) -> CallError:
    """The error for a server that rejects the login."""
    return CallError(
        f"the MLflow server at {without_password(uri)} refuses the login: set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a valid user"
    )


def no_answer(uri: str, reason: str) -> CorrFractalError:
    """The error for an unreachable server."""
    return CorrFractalError(
        f"the MLflow store {without_password(uri)} did not answer "
        f"({without_password(reason)[:200]}): start the server, or {OTHER_STORE_HINT}"
    )


def _check_registry_uri(uri: str) -> None:
    """Refuse a separate model registry: lineage needs models and runs in one store."""
    registry = os.environ.get("MLFLOW_REGISTRY_URI")
    if registry and registry != uri and canonical_uri(registry) != uri:
        raise CallError(
            f"MLFLOW_REGISTRY_URI names {without_password(registry)}, but runs and models are kept "
            f"in one store, here {without_password(uri)}: unset it, or set MLFLOW_TRACKING_URI to "
            "it"
        )


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        _ = parts.port  # urllib parses the port on access, and raises only then
    except ValueError as exc:
        raise CallError(f"cannot read the store URI {without_password(uri)}: {exc}") from exc
    return parts


def _check_http_server(uri: str, parts: SplitResult) -> None:
    """Send ``PROBE``; any answer shows that a server is running, 401 that it refuses the login."""
    login, _, host = parts.netloc.rpartition("@")
    address = parts._replace(netloc=host)  # urllib does not accept a login in the URL
    if not address.hostname:
        raise CallError(f"cannot read the store URI {without_password(uri)}: it names no host")

    headers = _login_header(login)
    request = urllib.request.Request(f"{address.geturl().rstrip('/')}{PROBE}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
            return
    except urllib.error.HTTPError as answer:
        answer.close()
        # Without a header of ours a 401 is final only if MLflow has no other source of a login.
        if answer.code == HTTPStatus.UNAUTHORIZED and (headers or not _has_other_login()):
            raise login_refused(uri) from answer
    except (OSError, http.client.HTTPException, ValueError) as exc:
        reason = getattr(exc, "reason", exc)
        # MLflow may be configured to trust a certificate that urllib refuses.
        if not isinstance(reason, ssl.SSLError):
            raise no_answer(uri, str(reason) or type(reason).__name__) from exc


def _login_header(login_in_uri: str) -> dict[str, str]:
    """The Authorization header MLflow would send: login of the URI, user and password, or token."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    login = login_in_uri or f"{user}:{password}"
    if login != ":":
        encoded = base64.b64encode(unquote(login).encode()).decode()
        return {"Authorization": f"Basic {encoded}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _has_other_login() -> bool:
    """Whether MLflow or requests may have a login that ``_login_header`` does not read."""
    variables = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "NETRC")
    home = Path("~").expanduser()
    files = (home / ".mlflow" / "credentials", home / ".netrc", home / "_netrc")
    return any(map(os.environ.get, variables)) or any(file.exists() for file in files)


def _check_port(uri: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
    except OSError as exc:
        raise no_answer(uri, str(exc)) from exc
