"""What a command may write and delete: never an input, and of existing files only those that it
wrote itself.

Every command that writes asks here before it writes:

1. ``refuse_overlap``: an output that is, lies in, or contains an input is a wrong call, and so are
   two outputs of one call at the same place.
2. ``Written``: a note of the files that a command wrote, each with the SHA-256 of its contents.
   Only a file whose contents are still those in the note is kept by a later run, replaced without
   ``--overwrite``, or deleted.
3. ``write_page``: one HTML file that carries its own SHA-256, for outputs without a folder that
   could hold a note.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .errors import CallError
from .files import file_sha256, write_text
from .storage import Location, is_uri

Identity = tuple[object, ...]
Lineage = list[Identity]

# Spellings of one store
SCHEMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
SEAL = re.compile(rb"<!-- written by corrfractal, sha256 ([0-9a-f]{64}) -->\n\Z")


def refuse_overlap(
    outputs: Mapping[str, Location | None], inputs: Iterable[Location | None]
) -> None:
    """Check that no output of a call touches one of its inputs, or another output. Nothing is
    written.

    Symbolic links, hard links, ``..``, file systems that ignore case, and other spellings of a URI
    are seen through: existing files and folders are compared by device and inode.

    Args:
        outputs: location by the option that names it, such as ``--out``; None: not asked for.
        inputs: every file and folder that the call reads; those that do not exist cannot be harmed.

    Raises:
        CallError: names both paths.
    """
    asked = {option: location for option, location in outputs.items() if location is not None}
    known: dict[Path, Lineage] = {}  # of folders: many inputs share one
    places = {option: _lineages(location, known) for option, location in asked.items()}
    for given in inputs:
        if given is None or not (is_uri(given) or os.path.lexists(given)):
            continue
        lineages = _lineages(given, known)
        for option, place in places.items():
            relation = _relation(place, lineages)
            if relation is not None:
                raise CallError(
                    f"{option} {asked[option]} {relation} the input {given}, which could be "
                    "overwritten: name another place for the output. Nothing was written"
                )
    options = list(asked)
    for number, option in enumerate(options):
        for other in options[:number]:
            if any(a[0] == b[0] for a in places[option] for b in places[other]):
                raise CallError(
                    f"{other} {asked[other]} and {option} {asked[option]} are the same place: one "
                    "would overwrite the other; name two. Nothing was written"
                )


def refuse_existing(paths: Iterable[Path], advice: str) -> None:
    """Check that files which a new run would write do not exist yet.

    Raises:
        CallError: names the first that does, and says what to do.
    """
    for path in paths:
        if os.path.lexists(path):
            raise CallError(
                f"{path} exists, and was not written by this command: {advice}. Nothing was written"
            )


class Written:
    """A note of the files that a command wrote: a JSON line ``{"path", "sha256"}`` for each.

    A line is added before its file appears, so a run that is killed leaves no file of its own that
    the note does not name.

    Args:
        note: the file.
        root: folder of the files; their paths are relative to it, or absolute outside of it. None:
            the note's folder.
    """

    def __init__(self, note: Path, root: Path | None = None) -> None:
        self._note = note
        self._root = note.parent if root is None else root
        self._hashes: dict[str, set[str]] = {}
        for line in note.read_bytes().splitlines() if note.is_file() else []:
            try:
                entry = json.loads(line)
                self._hashes.setdefault(str(entry["path"]), set()).add(str(entry["sha256"]))
            except (ValueError, TypeError, KeyError):  # the last line of a process that was killed
                continue

    @property
    def paths(self) -> list[Path]:
        """All files that the note names, existing or not."""
        return [self._root / name for name in self._hashes]

    def names(self, path: Path) -> bool:
        """Whether the note names a file, whatever it holds now."""
        return self._name(path) in self._hashes

    def owns(self, path: Path) -> bool:
        """Whether a file exists and holds what was written."""
        hashes = self._hashes.get(self._name(path), set())
        return bool(hashes) and path.is_file() and file_sha256(path) in hashes

    def refuse_foreign(self, paths: Iterable[Path], *, overwrite: bool = False) -> None:
        """Check that none of the files that a run would write belongs to somebody else.

        Raises:
            CallError: one exists whose contents the note does not name; or a folder is in its
            place.
        """
        for path in paths:
            if not os.path.lexists(path):
                continue
            if path.is_dir():
                raise CallError(
                    f"{path} is a folder, and a file would be written there: name another output"
                )
            if not overwrite and not self.owns(path):
                raise CallError(
                    f"{path} exists, and is not what this command wrote there: move it away, name "
                    "another output, or replace it with --overwrite. Nothing was written"
                )

    @contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """A temporary file beside ``path`` that takes its name at the end of the block, once the
        note names it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # The name may be as long as names can be
        short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        temporary = path.with_name(f".{short}.{os.getpid()}.tmp{path.suffix}")
        try:
            yield temporary
            self._claim(path, file_sha256(temporary))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def write(self, path: Path, contents: bytes) -> None:
        """Write a file in one atomic step."""
        with self.replacing(path) as temporary:
            temporary.write_bytes(contents)

    def clear(self, stale: Callable[[Path], bool] = lambda path: True) -> list[Path]:
        """Delete the stale files that still hold what was written; returns those left because they
        changed since."""
        changed = []
        for path in filter(stale, self.paths):
            if self.owns(path):
                path.unlink()
                _remove_if_empty(path.parent, self._root)
            elif os.path.lexists(path):
                changed.append(path)
            del self._hashes[self._name(path)]
        lines = [
            _line(name, sha256)
            for name, hashes in self._hashes.items()
            for sha256 in sorted(hashes)
        ]
        if self._note.exists():
            write_text(self._note, "".join(lines))
        return changed

    def _claim(self, path: Path, sha256: str) -> None:
        name = self._name(path)
        if sha256 in self._hashes.get(name, ()):
            return
        self._note.parent.mkdir(parents=True, exist_ok=True)
        with self._note.open("a", encoding="ascii") as file:
            # The newline in front ends what a killed process left of its last line.
            file.write("\n" + _line(name, sha256))
        self._hashes.setdefault(name, set()).add(sha256)

    def _name(self, path: Path) -> str:
        absolute = path.parent.resolve() / path.name
        folder = self._root.resolve()
        return (
            str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)
        )


def refuse_foreign_page(path: Path, *, overwrite: bool = False) -> None:
    """Check that ``write_page`` may write to a file.

    Raises:
        CallError: it exists, and no page of this program is in it, or one that was changed since.
    """
    if overwrite or not os.path.lexists(path):
        return
    contents = path.read_bytes() if path.is_file() else b""
    seal = SEAL.search(contents)
    if seal is None or hashlib.sha256(contents[: seal.start()]).hexdigest().encode() != seal[1]:
        raise CallError(
            f"{path} exists, and is not what this command wrote there: move it away, name another "
            "output, or replace it with --overwrite. Nothing was written"
        )


def write_page(path: Path, html: str) -> None:
    """Write an HTML page in one atomic step; its last line is a comment with the SHA-256 of all
    before it.

    Call ``refuse_foreign_page`` before any work: this function replaces the file.
    """
    text = html if html.endswith("\n") else html + "\n"
    sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"{text}<!-- written by corrfractal, sha256 {sha256} -->\n")


def _relation(output: list[Lineage], given: list[Lineage]) -> str | None:
    """How an output stands to an input, each with its lineages; None: they do not touch."""
    here = {lineage[0] for lineage in given}
    if any(lineage[0] in here for lineage in output):
        return "is"
    if any(place in here for lineage in output for place in lineage):
        return "lies in"
    there = {lineage[0] for lineage in output}
    if any(place in there for lineage in given for place in lineage):
        return "contains"
    return None


def _lineages(location: Location, known: dict[Path, Lineage]) -> list[Lineage]:
    """A location and all folders above it, upward: as spelled, and with symbolic links resolved."""
    path = Path(location)
    if isinstance(location, str) and is_uri(location):
        scheme, _, rest = location.rpartition("::")[2].partition("://")
        if scheme not in ("file", "local"):
            return [_uri_lineage(SCHEMES.get(scheme, scheme), rest)]
        path = Path(rest.removeprefix("localhost"))
    spellings = {Path(os.path.normpath(path.absolute())), path.resolve()}
    return [_local_lineage(spelling, known) for spelling in sorted(spellings)]


def _local_lineage(path: Path, known: dict[Path, Lineage]) -> Lineage:
    if path.parent == path:
        return [_identity(path)]
    if path.parent not in known:
        known[path.parent] = _local_lineage(path.parent, known)
    return [_identity(path), *known[path.parent]]


def _identity(path: Path) -> Identity:
    """Device and inode; of what does not exist, those of the nearest folder that does, and the rest
    of the name."""
    rest: list[str] = []
    while True:
        try:
            found = path.stat()
        except OSError:
            # Whether the file system ignores case is not known yet
            rest.insert(0, path.name.casefold())
            path = path.parent
        else:
            return (found.st_dev, found.st_ino, *rest)


def _uri_lineage(scheme: str, rest: str) -> Lineage:
    """Bucket and keys; slashes that are double or at the end, and dots, count for nothing."""
    bucket, _, key = rest.partition("/")
    parts = [scheme, bucket, *(part for part in posixpath.normpath("/" + key).split("/") if part)]
    return [tuple(parts[:depth]) for depth in range(len(parts), 1, -1)]


def _line(name: str, sha256: str) -> str:
    return json.dumps({"path": name, "sha256": sha256}) + "\n"


def _remove_if_empty(folder: Path, stop: Path) -> None:
    """Remove a folder that is empty now, and those above it, below ``stop``."""
    while folder != stop and folder.is_relative_to(stop):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
