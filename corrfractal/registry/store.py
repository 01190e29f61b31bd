"""The place of the MLflow store: its URI, and whether it can be used. This file imports no MLflow.

URIs are built and parsed here only. SQLAlchemy decodes ``%41`` in the path of a SQLite URI and
ends the path at ``?``, so both characters are quoted. For a URI that begins with ``sqlite:///``
MLflow creates the parent folder of the quoted path, so a quoted URI also names the driver.

``check_store`` finds every fault that can be found without MLflow, each as one sentence, within
``ANSWER_SECONDS`` or ``LOCK_SECONDS``. ``corrfractal doctor`` calls it, and ``tracking.open_store``
calls it before MLflow, which would retry for minutes.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import http.client
import os
import re
import socket
import sqlite3
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from corrfractal.common.errors import CallError, CorrFractalError, IntegrityError
from corrfractal.common.text import without_password

ANSWER_SECONDS = 10.0  # for a server to answer
LOCK_SECONDS = 10.0  # for another process to release the data base
CREATE_SECONDS = 25.0  # for another process to finish creating the store
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
SCHEMES = ("sqlite", "http", "https", "databricks", "databricks-uc", "uc", *DATABASE_PORTS)
ARTIFACTS = "mlartifacts"
STORE_TAG = "corrfractal.store"
"""Tag of the experiment: the file that the store was when its artefact locations were written."""
ANOTHER = "name another store with --tracking-uri or MLFLOW_TRACKING_URI"


def named_uri(given: str | None = None) -> str | None:
    """The store named by an argument or ``MLFLOW_TRACKING_URI``; None if none is named.

    Raises:
        CallError: it cannot be a store.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    return canonical_uri(uri) if uri else None


def tracking_uri(given: str | None = None, folder: Path | None = None) -> str:
    """The store that is named, else ``mlflow.db`` in ``folder`` (default: the working folder).

    Raises:
        CallError: it cannot be a store.
    """
    return named_uri(given) or sqlite_uri((folder or Path()) / "mlflow.db")


def canonical_uri(uri: str, folder: Path | None = None) -> str:
    """A store's URI with an absolute path; a relative one starts at ``folder``.

    Raises:
        CallError: it cannot be a store.
    """
    _check_scheme(uri)
    file = sqlite_file(uri)
    if file is None:
        return uri
    query = uri.partition("?")[2]
    return sqlite_uri((folder or Path()) / file) + (f"?{query}" if query else "")


def sqlite_uri(file: Path) -> str:
    """The URI of a local store. Ordinary names stay readable; the rest is quoted.

    Raises:
        CallError: SQLite cannot open a file of that name.
    """
    path = str(file.absolute())
    try:
        path.encode()
    except UnicodeEncodeError as exc:
        shown = path.encode(errors="backslashreplace").decode()
        raise CallError(
            f"MLflow cannot keep a store at {shown}, a name that is not UTF-8: rename it, or "
            f"{ANOTHER}"
        ) from exc
    quoted = re.sub(r"[%?#\x00-\x1f\x7f]", lambda match: f"%{ord(match[0]):02X}", path)
    return f"sqlite:///{path}" if quoted == path else f"sqlite+pysqlite:///{quoted}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a local store as the URI names it; None for a store of another kind.

    Raises:
        CallError: the URI is malformed.
    """
    match = re.fullmatch(r"sqlite(?:\+pysqlite)?:(?://)?(?:/([^?]*))?(?:\?(.*))?", uri, re.DOTALL)
    if match is None:
        return None
    path, query = match.groups()
    if query and not all(re.fullmatch(r"\w+=.*", part) for part in query.split("&")):
        raise CallError(
            f"cannot read the store's URI {uri}: in a file's name, '?' is written %3F and '%' is "
            "%25"
        )
    if not path or path == ":memory:" or path.startswith("file:"):
        raise CallError(
            f"the store's URI {uri} names no file: write sqlite:////absolute/path/mlflow.db"
        )
    return Path(unquote(path))


def local_file(uri: str) -> Path | None:
    """The file of a local store, absolute; None for a store of another kind."""
    file = sqlite_file(uri)
    return None if file is None else file.absolute()


def artifacts_uri(file: Path) -> str:
    """Where a local store keeps its artefacts: beside itself."""
    return (file.parent / ARTIFACTS).as_uri()


def check_store(uri: str, *, write: bool) -> bool:
    """Whether a store is there; False for a local one that is yet to be created.

    Args:
        uri: from ``tracking_uri``.
        write: also check that it can be written to.

    Raises:
        CallError: it is no store, is of another version of MLflow, or refuses the login; or
            MLFLOW_REGISTRY_URI names another one.
        IntegrityError: it is damaged.
        CorrFractalError: it is locked, cannot be read or written, or does not answer.
    """
    _check_registry(uri)
    file = local_file(uri)
    if file is not None:
        return _check_sqlite(file, write)
    parts = _split(uri)
    scheme = parts.scheme.split("+")[0]
    if scheme in ("http", "https"):
        _check_server(uri)
    elif scheme in DATABASE_PORTS:
        _connect(uri, parts.hostname or "127.0.0.1", parts.port or DATABASE_PORTS[scheme])
    return True


def check_contents(file: Path) -> None:
    """Read a whole local store, which takes seconds if it is large.

    Raises:
        IntegrityError: it is damaged.
        CorrFractalError: it is locked.
    """
    try:
        with connect(file) as base:
            said = base.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as exc:
        raise sqlite_error(exc, file) from exc
    if said != "ok":
        raise sqlite_error(sqlite3.DatabaseError("malformed"), file)


def login_refused(uri: str) -> CallError:
    """The error of a server that does not let the user in."""
    return CallError(
        f"the MLflow server at {without_password(uri)} refuses the login: set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user that it knows"
    )


def holds_run(file: Path, run_id: str) -> bool:
    """Whether a local store holds a run; False where it cannot be read."""
    if not file.is_file():
        return False
    with contextlib.suppress(sqlite3.Error), connect(file) as base:
        return (
            base.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone() is not None
        )
    return False


@contextmanager
def connect(file: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing SQLite file, without creating one; commit at the end of the block."""
    base = sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=LOCK_SECONDS)
    try:
        with base:
            yield base
    finally:
        base.close()


@contextmanager
def store_lock(file: Path) -> Iterator[None]:
    """Hold the lock of a local store: one process at a time creates it or rewrites its locations.

    The kernel releases the lock (``flock``) when its process ends. The lock file is removed
    afterwards; a process that locked a file that was just removed tries again.

    Raises:
        CorrFractalError: another process held it for ``CREATE_SECONDS``, or it cannot be created.
    """
    path = file.with_name(f".{file.name}.lock")
    deadline = time.monotonic() + CREATE_SECONDS
    lock = _take_lock(path, file)
    while lock is None:
        if time.monotonic() > deadline:
            raise locked(file)
        time.sleep(0.1)
        lock = _take_lock(path, file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.close()


def _take_lock(path: Path, file: Path) -> IO[str] | None:
    """The open lock file, or None while another process has it."""
    try:
        lock = path.open("a")
    except OSError as exc:
        raise unwritable(file, exc.strerror or str(exc)) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError:  # a file system without locks
        return lock
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            return lock
    lock.close()  # its last holder has removed the file meanwhile
    return None


def locked(file: Path) -> CorrFractalError:
    """The error of a store that another process keeps locked."""
    return CorrFractalError(
        f"the MLflow store {file} is locked by another process: wait for that process or end it, "
        "then run the same command again"
    )


def unwritable(file: Path, reason: str) -> CorrFractalError:
    """The error of a store that cannot be written to."""
    return CorrFractalError(
        f"the MLflow store {file} cannot be written ({reason}): change the owner or mode of "
        f"the file and its folder, or {ANOTHER}"
    )


def sqlite_error(exc: BaseException, file: Path) -> CorrFractalError:
    """What SQLite says of a local store, as one sentence; ``exc`` may be SQLAlchemy's wrapper."""
    said = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    if "locked" in said:
        return locked(file)
    if "is full" in said:
        return CorrFractalError(
            f"the disk of the MLflow store {file} is full: make room, then run the same command "
            "again"
        )
    if "readonly" in said or "unable to open" in said:
        return unwritable(file, "read-only" if "readonly" in said else "no access")
    if "malformed" in said or "not a database" in said or "disk I/O" in said:
        what = "no SQLite data base" if "not a database" in said else "damaged or cut short"
        return IntegrityError(
            f"the MLflow store {file} is {what}: restore it from a copy, or move it away to start "
            "a new one"
        )
    return CorrFractalError(f"the MLflow store {file} failed: {without_password(said)[:200]}")


def _check_scheme(uri: str) -> None:
    scheme = uri.partition(":")[0].lower() if ":" in uri else ""
    if scheme in ("", "file") or "/" in scheme:
        raise CallError(
            f"the MLflow store {uri} is a plain file or folder, which MLflow 3 does not use: "
            "write sqlite:///mlflow.db, or the URL of a server"
        )
    plugins = {plugin.name for plugin in entry_points(group="mlflow.tracking_store")}
    if scheme.split("+")[0] not in (*SCHEMES, *plugins):
        raise CallError(
            f"the MLflow store {without_password(uri)} is of no kind that is known here: "
            "write sqlite:///mlflow.db, or the URL of a server"
        )


def _check_registry(uri: str) -> None:
    """Runs and models are kept in one store, so that every model leads to its run."""
    other = os.environ.get("MLFLOW_REGISTRY_URI")
    if other and other != uri and canonical_uri(other) != uri:
        raise CallError(
            f"MLFLOW_REGISTRY_URI names {without_password(other)}, but runs and models are kept in "
            f"one store, here {without_password(uri)}: unset it, or set MLFLOW_TRACKING_URI to it"
        )


def _split(uri: str) -> urllib.parse.SplitResult:
    try:
        parts = urlsplit(uri)
        _ = parts.port  # is parsed, and may be refused, only when it is read
    except ValueError as exc:
        raise CallError(f"cannot read the store's URI {without_password(uri)}: {exc}") from exc
    return parts


def _check_server(uri: str) -> None:
    """Ask for an experiment: any answer shows that a server is there; 401 is a refused login."""
    parts = _split(uri)
    # Urllib takes no login from a URI
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    if not bare.hostname:
        raise CallError(f"cannot read the store's URI {without_password(uri)}: it names no host")
    query = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    headers = _login(parts.netloc.rpartition("@")[0])
    request = urllib.request.Request(f"{bare.geturl().rstrip('/')}{query}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
            return
    except urllib.error.HTTPError as answer:
        answer.close()
        if answer.code == HTTPStatus.UNAUTHORIZED and (headers or not _login_elsewhere()):
            raise login_refused(uri) from answer
    except (OSError, http.client.HTTPException, ValueError) as exc:
        reason = getattr(exc, "reason", exc)
        # MLflow may have been told to trust the certificate
        if not isinstance(reason, ssl.SSLError):
            raise no_answer(uri, str(reason) or type(reason).__name__) from exc


def _login(in_uri: str) -> dict[str, str]:
    """The header of a login, from where MLflow takes it: the URI, user and password, or a token."""
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    login = in_uri or ":".join(os.environ.get(name, "") for name in names)
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if login != ":":
        return {"Authorization": f"Basic {base64.b64encode(unquote(login).encode()).decode()}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _login_elsewhere() -> bool:
    """Whether MLflow or requests may know a login that ``_login`` does not."""
    variables = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "NETRC")
    home = Path("~").expanduser()
    files = (home / ".mlflow" / "credentials", home / ".netrc", home / "_netrc")
    return any(map(os.environ.get, variables)) or any(file.exists() for file in files)


def _connect(uri: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
    except OSError as exc:
        raise no_answer(uri, str(exc)) from exc


def no_answer(uri: str, reason: str) -> CorrFractalError:
    """The error of a server that is away."""
    return CorrFractalError(
        f"the MLflow store {without_password(uri)} did not answer "
        f"({without_password(reason)[:200]}): start the server, or {ANOTHER}"
    )


def _check_sqlite(file: Path, write: bool) -> bool:
    try:
        if file.is_dir():
            raise CallError(f"the MLflow store {file} is a folder, not a file: {ANOTHER}")
        empty = not file.exists() or file.stat().st_size == 0
    except OSError as exc:
        raise unwritable(file, exc.strerror or str(exc)) from exc
    if empty:
        if write:
            _check_folder(file)
        return False
    try:
        with connect(file) as base:
            tables = {name for (name,) in base.execute("SELECT name FROM sqlite_master")}
            found = (
                base.execute("SELECT version_num FROM alembic_version").fetchone()
                if "alembic_version" in tables
                else None
            )
            if write and found is not None:
                _check_folder(file)
                base.execute("BEGIN IMMEDIATE")
                base.rollback()
    except sqlite3.Error as exc:
        raise sqlite_error(exc, file) from exc
    if found is None and "alembic_version" in tables:
        raise IntegrityError(
            f"the MLflow store {file} was never completed: move it away, and the next training "
            "creates a new one"
        )
    if found is None and tables:
        raise CallError(f"{file} is a data base of another program, not an MLflow store: {ANOTHER}")
    if found is not None:
        _check_revision(file, str(found[0]))
    return found is not None


def _check_folder(file: Path) -> None:
    """SQLite creates its journal beside the file."""
    folder = next(parent for parent in file.parents if parent.exists())
    if not folder.is_dir():
        raise CallError(
            f"the MLflow store {file} cannot be in {folder}, which is a file: {ANOTHER}"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise unwritable(file, f"no access to {folder}")


def _check_revision(file: Path, revision: str) -> None:
    known, head = mlflow_revisions()
    if revision == head or head is None:
        return
    if revision not in known:
        raise CallError(
            f"the MLflow store {file} was written by a newer MLflow (schema {revision}): "
            f"install that version, or {ANOTHER}"
        )
    raise CallError(
        f"the MLflow store {file} was written by an older MLflow (schema {revision}): "
        f"copy the file, then run `mlflow db upgrade '{sqlite_uri(file)}'`"
    )


@cache
def mlflow_revisions() -> tuple[frozenset[str], str | None]:
    """The schemas that the installed MLflow knows, and the one it writes (None if not found).

    They are read from its files, since importing MLflow takes seconds.
    """
    spec = find_spec("mlflow")
    folders = spec.submodule_search_locations if spec else None
    known = set()
    replaced = set()
    for folder in folders or ():
        for file in (Path(folder) / "store" / "db_migrations" / "versions").glob("*.py"):
            text = file.read_text(encoding="utf-8")
            known |= set(re.findall(r"^revision\b[^=\n]*=\s*['\"](\w+)", text, re.MULTILINE))
            replaced |= set(
                re.findall(r"^down_revision\b[^=\n]*=\s*['\"](\w+)", text, re.MULTILINE)
            )
    heads = known - replaced
    return frozenset(known), heads.pop() if len(heads) == 1 else None
