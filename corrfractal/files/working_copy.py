"""Work in a folder at a URI as if it were local: own files are fetched, changed ones copied back.

The rules of local folders stay (``written_files``, ``output_guard``): the copy holds the files that
earlier runs recorded as their own, pages with their seals, and an empty file in the place of any
other, which a command therefore refuses to replace, and which is never copied back.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from corrfractal.common.errors import CallError, CorrFractalError

from . import storage
from .lease import OWNER, Lease
from .mirror import FINAL_PATIENCE, Mirror, private_folder

CHECK_SECONDS = 2.0  # for which a check of the lease counts
LAST_PATIENCE = 10.0  # seconds for what a stopped command has made


class WorkingCopy:
    """A local folder for the files of a command.

    Attributes:
        folder: the folder.
        uri: the folder at a URI of which it is a copy; None: it is the user's own.
    """

    def __init__(self, folder: Path, uri: str | None = None, mirror: Mirror | None = None) -> None:
        self.folder = folder
        self.uri = uri
        self._mirror = mirror

    def local(self, output: storage.Location | None) -> Path | None:
        """The local path of a further output: its own, or at a URI inside ``uri`` that in the copy.

        Raises:
            CallError: it is at another URI.
        """
        if output is None or not storage.is_uri(output):
            return None if output is None else Path(output)
        inside = f"{self.uri}/"
        if self.uri is None or not str(output).startswith(inside):
            raise CallError(f"{output} is not inside --out: name a place there, or a local file")
        return self.folder / str(output).removeprefix(inside)

    def publish(self) -> None:
        """Copy changed files to the URI now.

        Raises:
            OSError: the store does not take them.
        """
        if self._mirror is not None:
            self._mirror.publish_changed()

    def fetch(self, names: Iterable[str]) -> None:
        """Copy files that another process has published there."""
        if self._mirror is not None:
            for name in names:
                self._mirror.fetch(name)


@contextmanager
def working_copy(place: storage.Location, work: str) -> Iterator[WorkingCopy]:
    """A local folder for the files of a command.

    Args:
        place: the folder that the user names. A local one is used itself.
        work: what the command does, for messages: ``another WORK is writing to PLACE``.

    Raises:
        CorrFractalError: another process works there. Errors of the block name files of the place.
        OSError: the store does not take the files.
    """
    if not storage.is_uri(place):
        yield WorkingCopy(Path(place))
        return
    uri = str(place).rstrip("/")
    storage.refuse_password(uri)
    storage.make_folder(uri)
    with Lease(uri, work) as lease, private_folder() as folder:
        mirror = Mirror(
            folder,
            uri,
            ("**/*",),
            first=is_record,
            check=lambda: lease.check(CHECK_SECONDS),
            deletions=True,
        )
        _fetch_own(mirror, folder, uri)
        try:
            with mirror:
                yield WorkingCopy(folder, uri, mirror)
        except BaseException as exc:
            with suppress(OSError, CorrFractalError):
                mirror.publish_changed(patience=LAST_PATIENCE)
            if isinstance(exc, CorrFractalError):
                exc.args = (str(exc).replace(str(folder), uri), *exc.args[1:])
            raise
        mirror.publish_changed(patience=FINAL_PATIENCE)


def _fetch_own(mirror: Mirror, folder: Path, uri: str) -> None:
    names = storage.names_below(uri)
    records = {name for name in names if is_record(name)}
    for name in sorted(records):
        mirror.fetch(name)
    own = records | {name for name in names if "/" not in name and name.endswith(".html")}
    for record in records:
        own |= _recorded(folder / record, posixpath.dirname(record))
    for name in sorted(names - {OWNER}):
        if name in own:
            mirror.fetch(name)
        else:
            mirror.hold(name)


def is_record(name: str) -> bool:
    """Whether a file is a record of ``written_files.Written``: it is published before the files
    that it names."""
    path = PurePosixPath(name)
    named = path.name == "written.jsonl" or path.name.endswith(".written.jsonl")
    return named or (path.parts[0] == "written" and path.suffix == ".jsonl")


def _recorded(record: Path, folder: str) -> set[str]:
    """Names that a record can mean: relative to its own folder, or to the top."""
    names = set()
    for line in record.read_bytes().splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
            names |= {str(entry["path"]), posixpath.join(folder, str(entry["path"]))}
        except (ValueError, TypeError, KeyError):  # the incomplete last line of a killed run
            continue
    return names
