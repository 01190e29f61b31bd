"""Checks that a command never writes to its inputs, and never replaces files of the user.

Every command that writes calls these before it writes:

1. ``refuse_overlap``: an output must not be, be inside, or contain an input, nor be another output.
2. ``written_files.Written``: of existing files only those that the command wrote itself, and that
   are unchanged, may be replaced or deleted.
3. ``refuse_foreign_page`` and ``write_page``: an HTML page carries its own SHA-256, for outputs
   without a folder in which ``Written`` could keep its record.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from corrfractal.common.errors import CallError

from . import storage
from .storage import Location, is_uri
from .written_files import foreign_file

Identity = tuple[object, ...]
"""The same for every spelling of a file or folder: device and inode, or bucket and key."""
Lineage = list[Identity]
"""A location and all folders above it, upward."""

SCHEME_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
SEAL = re.compile(rb"<!-- written by corrfractal, sha256 ([0-9a-f]{64}) -->\n\Z")


def refuse_overlap(
    outputs: Mapping[str, Location | None], inputs: Iterable[Location | None]
) -> None:
    """Check that no output of a call overlaps one of its inputs, or another output.

    Symbolic links, hard links, ``..``, file systems that ignore case, and other spellings of a URI
    are resolved: existing files and folders are compared by device and inode.

    Args:
        outputs: location by the option that names it, such as ``--out``; None: not requested.
        inputs: every file and folder that the call reads; missing ones are skipped.

    Raises:
        CallError: names both paths.
    """
    requested = {option: location for option, location in outputs.items() if location is not None}
    known: dict[Path, Lineage] = {}  # by folder: many inputs share one
    output_lineages = {option: _lineages(place, known) for option, place in requested.items()}

    for location in inputs:
        if location is None or not (is_uri(location) or os.path.lexists(location)):
            continue
        input_lineages = _lineages(location, known)
        for option, lineages in output_lineages.items():
            relation = _relation(lineages, input_lineages)
            if relation is not None:
                raise CallError(
                    f"{option} {requested[option]} {relation} the input {location}, which could be "
                    "overwritten: name another place for the output. Nothing was written"
                )

    options = list(requested)
    for number, option in enumerate(options):
        own = {lineage[0] for lineage in output_lineages[option]}
        for other in options[:number]:
            if any(lineage[0] in own for lineage in output_lineages[other]):
                raise CallError(
                    f"{other} {requested[other]} and {option} {requested[option]} are the same "
                    "place: one would overwrite the other; name two. Nothing was written"
                )


def refuse_existing(paths: Iterable[Path], advice: str) -> None:
    """Check that files which a new run would write do not exist yet.

    Raises:
        CallError: names the first that exists, followed by ``advice``.
    """
    for path in paths:
        if os.path.lexists(path):
            raise existing_file(path, advice)


def existing_file(location: Location, advice: str) -> CallError:
    """The error about a file that a new run would write, and that exists."""
    return CallError(
        f"{location} exists, and was not written by this command: {advice}. Nothing was written"
    )


def refuse_foreign_page(place: Location, *, overwrite: bool = False) -> None:
    """Check that ``write_page`` may write to a file, local or at a URI.

    Raises:
        CallError: the file exists, and is not an unchanged page of this program.
    """
    if overwrite:
        return
    if is_uri(place):
        if storage.kind(place) is None:
            return
    elif not os.path.lexists(place):
        return
    contents = storage.read(place) if storage.kind(place) == "file" else b""
    seal = SEAL.search(contents)
    if seal is None or hashlib.sha256(contents[: seal.start()]).hexdigest().encode() != seal[1]:
        raise CallError(foreign_file(place))


def write_page(place: Location, html: str) -> None:
    """Write an HTML page atomically; its last line is a comment with the SHA-256 of the rest.

    It replaces the file: call ``refuse_foreign_page`` before the work starts.
    """
    text = html if html.endswith("\n") else html + "\n"
    sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    if not is_uri(place):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    contents = f"{text}<!-- written by corrfractal, sha256 {sha256} -->\n"
    storage.write(place, contents.encode("utf-8", "backslashreplace"))


def _relation(output: list[Lineage], given: list[Lineage]) -> str | None:
    """How an output overlaps an input, as the verb of a sentence; None: they are disjoint."""
    inputs = {lineage[0] for lineage in given}
    if any(lineage[0] in inputs for lineage in output):
        return "is"
    if any(folder in inputs for lineage in output for folder in lineage):
        return "is inside"
    outputs = {lineage[0] for lineage in output}
    if any(folder in outputs for lineage in given for folder in lineage):
        return "contains"
    return None


def _lineages(location: Location, known: dict[Path, Lineage]) -> list[Lineage]:
    """The lineages of a location: as spelled, and with symbolic links resolved."""
    path = Path(location)
    if isinstance(location, str) and is_uri(location):
        # "simplecache::s3://bucket/key" reads the last URI of the chain.
        scheme, _, rest = location.rpartition("::")[2].partition("://")
        if scheme not in ("file", "local"):
            return [_uri_lineage(SCHEME_ALIASES.get(scheme, scheme), rest)]
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
    """Device and inode. Of a missing path: those of the nearest existing folder, and the rest of
    the path."""
    missing: list[str] = []
    while True:
        try:
            found = path.stat()
        except OSError:
            # Whether the file system ignores case is unknown, so assume it: "Out" is "out".
            missing.insert(0, path.name.casefold())
            path = path.parent
        else:
            return (found.st_dev, found.st_ino, *missing)


def _uri_lineage(scheme: str, rest: str) -> Lineage:
    """Bucket and key prefixes; double slashes, slashes at the end, and dots are ignored."""
    bucket, _, key = rest.partition("/")
    folders = [part for part in posixpath.normpath("/" + key).split("/") if part]
    parts = [scheme, bucket, *folders]
    return [tuple(parts[:depth]) for depth in range(len(parts), 1, -1)]
