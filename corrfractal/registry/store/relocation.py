"""Update the absolute artefact locations in a local store that was moved or copied.

The experiment's tag ``corrfractal.store`` holds the path of the database when its locations were
written. If the database is opened at another path, locations below the old ``mlartifacts`` folder
are rewritten to the new one, in one transaction. A location is kept if its file exists only at the
old place: then only the database was copied, and its artefacts are still readable there. New runs
always write next to the database that records them.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from corrfractal.registry.names import CHECKPOINT_PATH_TAG, PROJECT, STORE_TAG

from .addresses import ARTIFACTS, artifacts_uri
from .sqlite_store import connect, sqlite_error, store_lock

LOCATION_COLUMNS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)

Update = tuple[str, tuple[object, ...]]
"""An SQL statement and its values."""


def moved_from(file: Path) -> Path | None:
    """The former path of a local store whose locations need an update; otherwise None.

    Raises:
        CorrFractalError: the store cannot be read.
    """
    try:
        with connect(file) as base:
            old = _former_path(base, file)
            return old if old is not None and _updates(base, old, file) else None
    except sqlite3.Error as exc:
        raise sqlite_error(exc, file) from exc


def update_locations(file: Path) -> Path | None:
    """Update a store that was moved or copied.

    Returns:
        Its former path; None if nothing needed an update.

    Raises:
        CorrFractalError: the store is locked or cannot be written.
    """
    if moved_from(file) is None:
        return None

    # Ask again under the lock: another process may have updated the store meanwhile.
    with store_lock(file):
        try:
            with connect(file) as base:
                base.execute("BEGIN IMMEDIATE")
                old = _former_path(base, file)
                updates = _updates(base, old, file) if old is not None else []
                for statement, values in updates:
                    base.execute(statement, values)
        except sqlite3.Error as exc:
            raise sqlite_error(exc, file) from exc
    return old if updates else None


def _former_path(base: sqlite3.Connection, file: Path) -> Path | None:
    """Where the store was before, from its tag or, in old stores, from its artefact folder."""
    row = base.execute(
        "SELECT artifact_location, value FROM experiments AS e LEFT JOIN experiment_tags AS t "
        "ON t.experiment_id = e.experiment_id AND t.key = ? WHERE e.name = ?",
        (STORE_TAG, PROJECT),
    ).fetchone()
    if row is None:
        return None
    location, tag = row
    if tag is not None:
        return None if _same_file(Path(tag), file) else Path(tag)

    parts = urlsplit(location or "")
    folder = Path(unquote(parts.path))
    # An experiment with an artefact folder of the user's choice is not updated.
    if parts.scheme != "file" or folder.name != ARTIFACTS or not (file.parent / ARTIFACTS).is_dir():
        return None
    old = folder.parent / file.name
    if _same_file(old, file) or _same_file(folder, file.parent / ARTIFACTS):
        return None
    return old


def _same_file(old: Path, new: Path) -> bool:
    """Whether both paths reach the same file, for example through a link or a mount."""
    try:
        return old == new or old.samefile(new)
    except OSError:
        return False


def _updates(base: sqlite3.Connection, old: Path, new: Path) -> list[Update]:
    before = artifacts_uri(old)
    after = artifacts_uri(new)
    updates: list[Update] = []
    kept = 0
    for table, column in LOCATION_COLUMNS:
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
    experiment, location = base.execute(query, (PROJECT,)).fetchone()
    if location != after:
        statement = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
        updates.append((statement, (after, experiment)))

    # While locations point to the old place the tag does too, so the next opening checks again.
    if not kept:
        updates += _checkpoint_updates(base, old.parent, new.parent)
        statement = (
            "INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)"
        )
        updates.append((statement, (STORE_TAG, str(new), experiment)))
    return updates


def _checkpoint_updates(base: sqlite3.Connection, old: Path, new: Path) -> list[Update]:
    """Update the paths of checkpoints that were moved together with the store."""
    updates: list[Update] = []
    query = "SELECT rowid, value FROM model_version_tags WHERE key = ?"
    for rowid, value in base.execute(query, (CHECKPOINT_PATH_TAG,)):
        path = Path(value)
        if not path.is_relative_to(old):
            continue
        present = new / path.relative_to(old)
        if present != path and present.exists():
            statement = "UPDATE model_version_tags SET value = ? WHERE rowid = ?"
            updates.append((statement, (str(present), rowid)))
    return updates


def _exists(location: str) -> bool:
    return Path(unquote(urlsplit(location).path)).exists()
