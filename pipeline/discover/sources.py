"""What the user names -> a sorted list of unique sources, each with its content's SHA-256 and its
length.

Which entries are videos is decided in ``corrfractal.video.discovery``, for all commands alike. Here each
is read once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from corrfractal.common import storage
from corrfractal.common.console import progress
from corrfractal.common.errors import VideoError
from corrfractal.common.process import cpu_count
from corrfractal.video.content import content_files, read_content
from corrfractal.video.discovery import Entry, discover
from corrfractal.video.timestamps import FOLDER_FPS


@dataclass(frozen=True, kw_only=True)
class Source:
    """One video.

    Attributes:
        uri: what shards and reports call it, see ``corrfractal.video.discovery``.
        path: where it is stored for this run, a local path or a URI; no digest depends on it.
        sha256: hex, see ``corrfractal.video.content``; ``""`` where it cannot be read.
        bytes: size of its contents.
        seconds: length by its header, 0 where that says nothing.
        state: of its files when they were hashed, see ``corrfractal.video.content``; no digest depends on
            it.
        fault: why it cannot be read; ``""`` where it can.
    """

    uri: str
    path: str
    sha256: str
    bytes: int = 0
    seconds: float = 0.0
    state: str = ""
    fault: str = ""

    @property
    def id(self) -> str:
        """Unique and readable, from name and contents; without dot and slash, as part of clip keys."""
        slug = re.sub(r"[^A-Za-z0-9-]+", "-", Path(self.uri).stem).strip("-")[:40] or "video"
        return f"{slug}-{self.sha256[:16]}"


def find_sources(names: Sequence[str], skip: str | Path | None = None) -> list[Source]:
    """Sources behind ``names``, sorted by URI, each file once; nothing in the folder ``skip`` is
    one.

    Raises:
        NotFoundError: a name leads to nothing.
        CallError: a list or a folder cannot be read, or a store cannot be reached.
    """
    return read_sources(discover(names, [] if skip is None else [skip]).entries)


def read_sources(entries: Sequence[Entry]) -> list[Source]:
    """Read every entry once; what cannot be read becomes a source with a fault, which the pipeline
    quarantines."""
    sources = []
    with ThreadPoolExecutor(2 * cpu_count()) as pool, progress("sources", len(entries)) as advance:
        for source in pool.map(_read, entries):
            sources.append(source)
            advance(1)
    return sources


def _read(entry: Entry) -> Source:
    """The SHA-256 of an entry, and what its header says."""
    unread = Source(uri=_text(entry.uri), path=entry.location, sha256="", fault=_text(entry.fault))
    if entry.fault:
        return unread
    try:
        with storage.local_copy(entry.location) as path:
            content = read_content(path)
            seconds = _seconds(path)
    except OSError as exc:
        name = Path(exc.filename or entry.location).name
        what = "the file" if name == Path(entry.location).name else f"its file {name}"
        return _with_fault(unread, f"{what} cannot be read: {exc.strerror or exc}")
    except VideoError as exc:
        return _with_fault(unread, exc.reason)
    return Source(
        uri=unread.uri,
        path=entry.location,
        sha256=content.sha256,
        bytes=content.bytes,
        seconds=seconds,
        state="" if storage.is_uri(entry.location) else content.state,
    )


def _with_fault(source: Source, fault: str) -> Source:
    return replace(source, fault=_text(fault))


def _seconds(path: Path) -> float:
    """Length by the header; 0 for what is no video, or does not say."""
    import av

    if path.is_dir():
        return len(content_files(path)) / FOLDER_FPS
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            return max(0.0, (container.duration or 0) / av.time_base)
    except Exception:  # third-party C fed with files from anywhere; the decoders will report it
        return 0.0


def _text(name: str) -> str:
    """File names need not be UTF-8, JSON must be."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
