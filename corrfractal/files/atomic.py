"""Atomic writes of local files, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path


def publish(temporary: Path, final: Path) -> None:
    """Rename a complete temporary file to its final name, durably.

    The contents reach the disk before the name does (fsync, rename, fsync of the folder), so an
    incomplete file never has the final name.
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    # Texts can contain file names that are not UTF-8.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, contents: bytes) -> None:
    """Write a small file atomically."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(contents)
        publish(temporary, path)
    except BaseException as exc:
        temporary.unlink(missing_ok=True)  # leave no partial file on a full disk
        if isinstance(exc, OSError) and exc.filename is None:
            exc.filename = str(path)  # errors of write(2) name no file
        raise
