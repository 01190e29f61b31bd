"""What the user names -> a sorted list of unique sources, each with SHA-256 and length.

``corrfractal.video.discovery`` decides which entries are videos, for all commands alike. Here each
of them is read once.
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
        uri: name in shards and reports, see ``corrfractal.video.discovery``.
        path: location for this run, a local path or a URI; part of no digest.
        sha256: hex, see ``corrfractal.video.content``; ``""`` if it cannot be read.
        bytes: size of its contents.
        seconds: length by its header; 0 if unknown.
        state: of its files when they were hashed, see ``corrfractal.video.content``; part of no
            digest.
        fault: why it cannot be read; ``""`` if it can.
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
        """Unique, readable name from file name and contents. It is part of clip keys, where
        WebDataset would split at a dot or a slash."""
        slug = re.sub(r"[^A-Za-z0-9-]+", "-", Path(self.uri).stem).strip("-")[:40] or "video"
        return f"{slug}-{self.sha256[:16]}"


def find_sources(names: Sequence[str], skip: str | Path | None = None) -> list[Source]:
    """Find and read sources.

    Args:
        names: files, folders, globs, lists, URIs.
        skip: a folder whose contents are no sources, such as the output folder.

    Returns:
        Sorted by URI, each file once.

    Raises:
        NotFoundError: a name matches nothing.
        CallError: a list or a folder cannot be read, or a store cannot be reached.
    """
    return read_sources(discover(names, [] if skip is None else [skip]).entries)


def read_sources(entries: Sequence[Entry]) -> list[Source]:
    """Read every entry once. An entry that cannot be read becomes a source with a fault, which the
    pipeline quarantines."""
    sources = []
    with ThreadPoolExecutor(2 * cpu_count()) as pool, progress("sources", len(entries)) as advance:
        for source in pool.map(_read, entries):
            sources.append(source)
            advance(1)
    return sources


def _read(entry: Entry) -> Source:
    """Hash an entry and read the length in its header."""
    unread = Source(uri=_utf8(entry.uri), path=entry.location, sha256="", fault=_utf8(entry.fault))
    if entry.fault:
        return unread
    try:
        with storage.local_copy(entry.location) as path:
            content = read_content(path)
            seconds = _seconds(path)
    except OSError as exc:
        # In a folder of frames the reason names the frame.
        name = Path(exc.filename or entry.location).name
        file = "the file" if name == Path(entry.location).name else f"its file {name}"
        return replace(unread, fault=_utf8(f"{file} cannot be read: {exc.strerror or exc}"))
    except VideoError as exc:
        return replace(unread, fault=_utf8(exc.reason))
    return Source(
        uri=unread.uri,
        path=entry.location,
        sha256=content.sha256,
        bytes=content.bytes,
        seconds=seconds,
        state="" if storage.is_uri(entry.location) else content.state,
    )


def _seconds(path: Path) -> float:
    """Length by the header; 0 if the file is no video or does not say."""
    import av

    if path.is_dir():
        return len(content_files(path)) / FOLDER_FPS
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            return max(0.0, (container.duration or 0) / av.time_base)
    except Exception:
        # No error: any file may be listed as a video, and decoding will report what is wrong.
        return 0.0


def _utf8(name: str) -> str:
    """A file name as valid UTF-8, which JSON requires and file systems do not."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
