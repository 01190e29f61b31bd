"""A local store, one SQLite file: checks, the lock for creating it, and its errors as sentences."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from corrfractal.common.errors import CallError, CorrFractalError, IntegrityError
from corrfractal.common.text import without_password

from .addresses import OTHER_STORE_HINT, sqlite_uri

LOCK_SECONDS = 10.0
"""Timeout for another process to release the database."""
CREATE_SECONDS = 25.0
"""Timeout for another process to finish creating the store."""


def check_sqlite(file: Path, write: bool) -> bool:
    """Whether a local store exists and can be used; errors as in ``check_store``."""
    try:
        if file.is_dir():
            raise CallError(f"the MLflow store {file} is a folder, not a file: {OTHER_STORE_HINT}")
        empty = not file.exists() or file.stat().st_size == 0
    except OSError as exc:
        raise _unwritable(file, exc.strerror or str(exc)) from exc
    if empty:
        if write:
            _check_folder(file)
        return False

    revision = None
    try:
        with connect(file) as base:
            tables = {name for (name,) in base.execute("SELECT name FROM sqlite_master")}
            if "alembic_version" in tables:
                revision = base.execute("SELECT version_num FROM alembic_version").fetchone()
            if write and revision is not None:
                _check_folder(file)
                # Taking the write lock finds a locked or read-only file.
                base.execute("BEGIN IMMEDIATE")
                base.rollback()
    except sqlite3.Error as exc:
        raise sqlite_error(exc, file) from exc

    if revision is not None:
        _check_revision(file, str(revision[0]))
        return True
    if "alembic_version" in tables:
        raise IntegrityError(
            f"the MLflow store {file} was never completed: move it away, and the next training "
            "creates a new one"
        )
    if tables:
        raise CallError(
            f"{file} is a database of another program, not an MLflow store: {OTHER_STORE_HINT}"
        )
    return False


def check_contents(file: Path) -> None:
    """Read every page of a local store; takes seconds for a large one.

    Raises:
        IntegrityError: the file is damaged.
        CorrFractalError: it is locked.
    """
    try:
        with connect(file) as base:
            result = base.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as exc:
        raise sqlite_error(exc, file) from exc
    if result != "ok":
        raise sqlite_error(sqlite3.DatabaseError("malformed"), file)


def holds_run(file: Path, run_id: str) -> bool:
    """Whether a local store contains a run; False if the file is missing or unreadable."""
    if not file.is_file():
        return False
    query = "SELECT 1 FROM runs WHERE run_uuid = ?"
    with contextlib.suppress(sqlite3.Error), connect(file) as base:
        return base.execute(query, (run_id,)).fetchone() is not None
    return False


@contextmanager
def connect(file: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing SQLite file; never create one. Commit at the end of the block."""
    base = sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=LOCK_SECONDS)
    try:
        with base:
            yield base
    finally:
        base.close()


@contextmanager
def store_lock(file: Path) -> Iterator[None]:
    """Hold the lock under which a local store is created or its locations are rewritten.

    The kernel releases the lock (``flock``) when its process dies. The lock file is removed
    afterwards, so a process may lock a file that has just been removed; it then retries.

    Raises:
        CorrFractalError: timeout after ``CREATE_SECONDS``, or the lock file cannot be created.
    """
    path = file.with_name(f".{file.name}.lock")
    deadline = time.monotonic() + CREATE_SECONDS
    lock = _try_lock(path, file)
    while lock is None:
        if time.monotonic() > deadline:
            raise _locked(file)
        time.sleep(0.1)
        lock = _try_lock(path, file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.close()


def sqlite_error(exc: BaseException, file: Path) -> CorrFractalError:
    """The sentence for an SQLite error on a local store; ``exc`` may be SQLAlchemy's wrapper."""
    message = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    if "locked" in message:
        return _locked(file)
    if "is full" in message:
        return CorrFractalError(
            f"the disk of the MLflow store {file} is full: make room, then run the same command "
            "again"
        )
    if "readonly" in message:
        return _unwritable(file, "read-only")
    if "unable to open" in message:
        return _unwritable(file, "no access")
    if "not a database" in message:
        return _damaged(file, "not an SQLite database")
    if "malformed" in message or "disk I/O" in message:
        return _damaged(file, "damaged or truncated")
    return CorrFractalError(f"the MLflow store {file} failed: {without_password(message)[:200]}")


@cache
def mlflow_revisions() -> tuple[frozenset[str], str | None]:
    """Schema revisions the installed MLflow knows, and the one it writes (None if not found).

    Read from the text of MLflow's migration files, since importing MLflow takes seconds.
    """
    spec = find_spec("mlflow")
    folders = spec.submodule_search_locations if spec else None
    known: set[str] = set()
    replaced: set[str] = set()
    for folder in folders or ():
        for file in (Path(folder) / "store" / "db_migrations" / "versions").glob("*.py"):
            text = file.read_text(encoding="utf-8")
            known |= set(re.findall(r"^revision\b[^=\n]*=\s*['\"](\w+)", text, re.MULTILINE))
            replaced |= set(
                re.findall(r"^down_revision\b[^=\n]*=\s*['\"](\w+)", text, re.MULTILINE)
            )
    heads = known - replaced
    return frozenset(known), heads.pop() if len(heads) == 1 else None


def _check_folder(file: Path) -> None:
    """The folder must be writable too: SQLite creates its journal next to the database."""
    folder = next(parent for parent in file.parents if parent.exists())
    if not folder.is_dir():
        raise CallError(
            f"the MLflow store {file} cannot be in {folder}, which is a file: {OTHER_STORE_HINT}"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(file, f"no access to {folder}")


def _check_revision(file: Path, revision: str) -> None:
    known, head = mlflow_revisions()
    if revision == head or head is None:
        return
    if revision not in known:
        raise CallError(
            f"the MLflow store {file} was written by a newer MLflow (schema {revision}): "
            f"install that version, or {OTHER_STORE_HINT}"
        )
    raise CallError(
        f"the MLflow store {file} was written by an older MLflow (schema {revision}): "
        f"copy the file, then run `mlflow db upgrade '{sqlite_uri(file)}'`"
    )


def _try_lock(path: Path, file: Path) -> IO[str] | None:
    """The open lock file, or None while another process holds it."""
    try:
        lock = path.open("a")
    except OSError as exc:
        raise _unwritable(file, exc.strerror or str(exc)) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError:  # a file system without locks: proceed unlocked
        return lock

    # The previous holder may have removed the file between our open() and flock().
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            return lock
    lock.close()
    return None


def _locked(file: Path) -> CorrFractalError:
    return CorrFractalError(
        f"the MLflow store {file} is locked by another process: wait for that process or end it, "
        "then run the same command again"
    )


def _unwritable(file: Path, reason: str) -> CorrFractalError:
    return CorrFractalError(
        f"the MLflow store {file} cannot be written ({reason}): change the owner or mode of "
        f"the file and its folder, or {OTHER_STORE_HINT}"
    )


def _damaged(file: Path, state: str) -> IntegrityError:
    return IntegrityError(
        f"the MLflow store {file} is {state}: restore it from a backup, or move it away to start "
        "a new one"
    )
