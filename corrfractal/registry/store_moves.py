"""Rewrite the absolute locations of artefacts in a local store that was moved or copied.

The experiment has a tag with the path that the data base had when its locations were written. If
the data base is now at another path, locations below the old ``mlartifacts`` are rewritten to the
new one, in one transaction, when the store is opened. A location is kept if the old place holds it
and the new one does not: then only the data base was copied, and its artefacts can still be read.
New runs always write beside the data base that they are recorded in.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .store import ARTIFACTS, STORE_TAG, artifacts_uri, connect, sqlite_error, store_lock

EXPERIMENT = "corrfractal"
LOCATIONS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
CHECKPOINT_TAG = "checkpoint.path"

Update = tuple[str, tuple[object, ...]]
"""A statement of SQL and its values."""


def moved_from(file: Path) -> Path | None:
    """The former path of a local store, if locations in it are to be rewritten.

    Raises:
        CorrFractalError: the store cannot be read.
    """
    try:
        with connect(file) as base:
            old = _recorded(base, file)
            return old if old is not None and _updates(base, old, file) else None
    except sqlite3.Error as exc:
        raise sqlite_error(exc, file) from exc


def mend_locations(file: Path) -> Path | None:
    """Rewrite the locations of a store that was moved or copied; returns its former path if it was.

    Raises:
        CorrFractalError: the store is locked or cannot be written.
    """
    if moved_from(file) is None:
        return None
    with store_lock(file):
        try:
            with connect(file) as base:
                base.execute("BEGIN IMMEDIATE")
                old = _recorded(base, file)
                updates = _updates(base, old, file) if old is not None else []
                for statement, values in updates:
                    base.execute(statement, values)
        except sqlite3.Error as exc:
            raise sqlite_error(exc, file) from exc
    return old if updates else None  # none if another process was first


def _recorded(base: sqlite3.Connection, file: Path) -> Path | None:
    """Where the store was, if not here: by its tag or, without one, by where its artefacts are."""
    row = base.execute(
        "SELECT artifact_location, value FROM experiments AS e LEFT JOIN experiment_tags AS t "
        "ON t.experiment_id = e.experiment_id AND t.key = ? WHERE e.name = ?",
        (STORE_TAG, EXPERIMENT),
    ).fetchone()
    if row is None:
        return None
    location, tag = row
    if tag is not None:
        return None if _same_file(Path(tag), file) else Path(tag)
    parts = urlsplit(location or "")
    folder = Path(unquote(parts.path))
    # An experiment that was given another artefact folder on purpose is left alone.
    if parts.scheme != "file" or folder.name != ARTIFACTS or not (file.parent / ARTIFACTS).is_dir():
        return None
    old = folder.parent / file.name
    return None if _same_file(old, file) or _same_file(folder, file.parent / ARTIFACTS) else old


def _same_file(old: Path, new: Path) -> bool:
    """Whether both paths lead to one store, by links or mounts for example."""
    try:
        return old == new or old.samefile(new)
    except OSError:
        return False


def _updates(base: sqlite3.Connection, old: Path, new: Path) -> list[Update]:
    before = artifacts_uri(old)
    after = artifacts_uri(new)
    updates: list[Update] = []
    kept = 0
    for table, column in LOCATIONS:
        for rowid, location in base.execute(f"SELECT rowid, {column} FROM {table}"):
            if location is None or not location.startswith(before + "/"):
                continue
            present = after + location.removeprefix(before)
            if _exists(location) and not _exists(present):
                kept += 1
            else:
                statement = f"UPDATE {table} SET {column} = ? WHERE rowid = ?"
                updates.append((statement, (present, rowid)))

    query = "SELECT experiment_id, artifact_location FROM experiments WHERE name = ?"
    experiment, location = base.execute(query, (EXPERIMENT,)).fetchone()
    if location != after:
        statement = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
        updates.append((statement, (after, experiment)))
    # The tag keeps the old path while a location does, so that the next opening looks again.
    if not kept:
        updates += _checkpoints(base, old.parent, new.parent)
        statement = (
            "INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)"
        )
        updates.append((statement, (STORE_TAG, str(new), experiment)))
    return updates


def _checkpoints(base: sqlite3.Connection, old: Path, new: Path) -> list[Update]:
    """Checkpoints that moved together with the store."""
    updates: list[Update] = []
    query = "SELECT rowid, value FROM model_version_tags WHERE key = ?"
    for rowid, value in base.execute(query, (CHECKPOINT_TAG,)):
        path = Path(value)
        present = new / path.relative_to(old) if path.is_relative_to(old) else path
        if present != path and present.exists():
            statement = "UPDATE model_version_tags SET value = ? WHERE rowid = ?"
            updates.append((statement, (str(present), rowid)))
    return updates


def _exists(location: str) -> bool:
    return Path(unquote(urlsplit(location).path)).exists()
