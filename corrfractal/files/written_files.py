"""The record of the files that a command wrote, each with the SHA-256 of its contents.

A later run keeps, replaces without ``--overwrite``, or deletes only files whose contents are still
the recorded ones: anything else belongs to the user.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from corrfractal.common.errors import CallError

from .atomic import file_sha256, write_text


class Written:
    """The files that a command wrote: a JSON line ``{"path", "sha256"}`` for each.

    A line is added before its file gets its final name, so a killed run leaves no file that is not
    recorded.

    Args:
        note: the file of the lines.
        root: folder of the recorded files; their paths are relative to it, or absolute outside of
            it. None: the folder of ``note``.
    """

    def __init__(self, note: Path, root: Path | None = None) -> None:
        self._note = note
        self._root = note.parent if root is None else root
        self._hashes: dict[str, set[str]] = {}
        lines = note.read_bytes().splitlines() if note.is_file() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self._hashes.setdefault(str(entry["path"]), set()).add(str(entry["sha256"]))
            except (ValueError, TypeError, KeyError):  # the incomplete last line of a killed run
                continue

    @property
    def paths(self) -> list[Path]:
        """All recorded files, existing or not."""
        return [self._root / name for name in self._hashes]

    def names(self, path: Path) -> bool:
        """Whether a file is recorded, with any contents."""
        return self._name(path) in self._hashes

    def owns(self, path: Path) -> bool:
        """Whether a file exists and has recorded contents."""
        hashes = self._hashes.get(self._name(path), set())
        return bool(hashes) and path.is_file() and file_sha256(path) in hashes

    def refuse_foreign(self, paths: Iterable[Path], *, overwrite: bool = False) -> None:
        """Check that a run may write these files.

        Args:
            paths: files that would be written.
            overwrite: also allow files that are not recorded, or were changed.

        Raises:
            CallError: a file exists whose contents are not recorded, or the path is a folder.
        """
        for path in paths:
            if not os.path.lexists(path):
                continue
            if path.is_dir():
                raise CallError(
                    f"{path} is a folder, and a file would be written there: name another output"
                )
            if not overwrite and not self.owns(path):
                raise CallError(foreign_file(path))

    @contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """Yield a temporary file in the same folder, which is recorded and renamed to ``path`` at
        the end of the block."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # A hash, since the name itself may have the maximum length of the file system.
        short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        temporary = path.with_name(f".{short}.{os.getpid()}.tmp{path.suffix}")
        try:
            yield temporary
            self._record(path, file_sha256(temporary))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def write(self, path: Path, contents: bytes) -> None:
        """Write a file atomically."""
        with self.replacing(path) as temporary:
            temporary.write_bytes(contents)

    def clear(self, stale: Callable[[Path], bool] = lambda path: True) -> list[Path]:
        """Delete the stale files that still have their recorded contents, and forget them all.

        Returns:
            Stale files that were changed since, and were kept.
        """
        changed = []
        for path in filter(stale, self.paths):
            if self.owns(path):
                path.unlink()
                _remove_if_empty(path.parent, self._root)
            elif os.path.lexists(path):
                changed.append(path)
            del self._hashes[self._name(path)]

        if self._note.exists():
            lines = []
            for name, hashes in self._hashes.items():
                lines += [_line(name, sha256) for sha256 in sorted(hashes)]
            write_text(self._note, "".join(lines))
        return changed

    def _record(self, path: Path, sha256: str) -> None:
        name = self._name(path)
        if sha256 in self._hashes.get(name, ()):
            return
        self._note.parent.mkdir(parents=True, exist_ok=True)
        with self._note.open("a", encoding="ascii") as file:
            # A killed run may have left its last line without an end: start a new one.
            file.write("\n" + _line(name, sha256))
        self._hashes.setdefault(name, set()).add(sha256)

    def _name(self, path: Path) -> str:
        absolute = path.parent.resolve() / path.name
        root = self._root.resolve()
        return str(absolute.relative_to(root) if absolute.is_relative_to(root) else absolute)


def foreign_file(path: Path | str) -> str:
    """The message about an existing file that the command did not write, or that was changed."""
    return (
        f"{path} exists, and is not what this command wrote there: move it away, name another "
        "output, or replace it with --overwrite. Nothing was written"
    )


def _line(name: str, sha256: str) -> str:
    return json.dumps({"path": name, "sha256": sha256}) + "\n"


def _remove_if_empty(folder: Path, stop: Path) -> None:
    """Remove a folder if it is empty, and then its parents below ``stop``."""
    while folder != stop and folder.is_relative_to(stop):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
