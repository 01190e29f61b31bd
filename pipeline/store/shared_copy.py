"""One local copy of a long remote video for all tasks of a build on a machine.

A long video is cut into segments, each the work of a task. The first task that reads a segment
fetches the video; the others wait for it and read the same copy, so that the store sends it once to
every machine and not once per segment.

Copies are in a folder of this user below the system's folder for temporary files. Before one is
fetched, all that no task reads are removed, so a machine never stores more of them than it runs
tasks, and what a killed process left goes the same way. The end of a build removes the last ones.
A reader holds a shared lock (``flock``) on the folder of its copy, which the kernel releases when
the process dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corrfractal.files import storage
from pipeline.discover.segments import Segment

COMPLETE = "complete"
PARTIAL = "partial"


@contextmanager
def copy_of(segment: Segment, build: str) -> Iterator[Path]:
    """Yield a local path to the source of a segment.

    Args:
        segment: of a local or remote source.
        build: identifies a build, whose tasks share copies; ``""``: share none.

    Raises:
        OSError: the source cannot be fetched.
    """
    location = segment.source.path
    root = _copies_folder() if build and segment.count > 1 and storage.is_uri(location) else None
    if root is None:
        with storage.local_copy(location) as path:
            yield path
        return
    name = hashlib.sha256(f"{build}\0{location}".encode()).hexdigest()[:32]
    lock = _fetch_and_lock(root / name, location)
    try:
        (path,) = (root / name / COMPLETE).iterdir()
        yield path
    finally:
        os.close(lock)


def remove_copies(keep: str = "") -> None:
    """Remove all copies on this machine that nobody reads, but for the one in the folder ``keep``;
    also those of other builds, which fetch them again."""
    root = _copies_folder()
    for entry in [] if root is None else root.iterdir():
        if entry.name != keep:
            _remove_unread(entry)


def _copies_folder() -> Path | None:
    """The folder of this user's copies; None if its place is taken by what others can write to."""
    root = Path(tempfile.gettempdir(), f"corrfractal-copies-{os.geteuid()}")
    root.mkdir(mode=0o700, exist_ok=True)
    status = root.lstat()
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return root if private and stat.S_ISDIR(status.st_mode) else None


def _fetch_and_lock(entry: Path, location: str) -> int:
    """Make the copy in ``entry`` complete; return a descriptor that holds a shared lock on it."""
    while True:
        entry.mkdir(exist_ok=True)
        try:
            lock = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # removed by another process just now
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_entry(lock, entry) and not (entry / COMPLETE).exists():
                remove_copies(keep=entry.name)
                _fetch(entry, location)
            # Changing a lock releases it first: the copy may be removed in between.
            fcntl.flock(lock, fcntl.LOCK_SH)
            if _is_entry(lock, entry) and (entry / COMPLETE).exists():
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _fetch(entry: Path, location: str) -> None:
    partial = entry / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        storage.download(location, partial)
    except BaseException:
        shutil.rmtree(entry, ignore_errors=True)
        raise
    partial.rename(entry / COMPLETE)


def _is_entry(lock: int, entry: Path) -> bool:
    """Whether a folder that was opened before is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(lock), entry.stat())
    except FileNotFoundError:
        return False


def _remove_unread(entry: Path) -> None:
    try:
        lock = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # removed by another process just now
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_entry(lock, entry):
            # Of a folder of frames, a kill could leave a part that looks complete.
            if (entry / COMPLETE).exists():
                shutil.rmtree(entry / PARTIAL, ignore_errors=True)
                (entry / COMPLETE).rename(entry / PARTIAL)
            shutil.rmtree(entry, ignore_errors=True)
    except OSError:
        pass  # a task reads it
    finally:
        os.close(lock)
