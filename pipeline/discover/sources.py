"""What the user names -> a sorted list of sources, from listings alone: no content is read.

Which entries are videos is decided in ``corrfractal.video.discovery``, for all commands alike. A
listing states size and stamp of each; the tasks that read a source anyway hash it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from corrfractal.files import storage
from corrfractal.runtime.process import cpu_count
from corrfractal.video.content import SETTLED_SECONDS, content_files, regular_stat
from corrfractal.video.discovery import Entry, discover
from corrfractal.video.entry_rules import is_image

from .source_table import Source, SourceTable

LOCAL_BATCH = 1000  # files that one thread looks at in turn
BATCHES = 64  # listed before their sources are packed


def source_id(uri: str, sha256: str) -> str:
    """Unique and readable, from name and content; without dot and slash, as part of clip keys."""
    slug = re.sub(r"[^A-Za-z0-9-]+", "-", Path(uri).stem).strip("-")[:40] or "video"
    return f"{slug}-{sha256[:16]}"


def find_sources(names: Sequence[str], skip: str | Path | None = None) -> list[Source]:
    """Sources behind ``names``, sorted by URI, each file once; contents of ``skip`` are none.

    Raises:
        NotFoundError: a name does not exist.
        CallError: a list or a folder cannot be read, or a store cannot be reached.
    """
    return list(list_sources(discover(names, [] if skip is None else [skip]).entries))


def list_sources(entries: Sequence[Entry]) -> SourceTable:
    """Size and stamp of every entry, in their order; one that cannot be listed becomes a source
    with a fault."""
    started = time.time()
    # A remote folder is listed once, and its listing dropped: all listings of a million files would
    # take 350 MB.
    batches: dict[str, list[int]] = defaultdict(list)
    for position, entry in enumerate(entries):
        remote = storage.is_uri(entry.location)
        batch = storage.parent(entry.location) if remote else f"local {position // LOCAL_BATCH}"
        batches[batch].append(position)

    def list_batch(batch: str) -> list[Source]:
        listed = storage.file_facts(batch) if storage.is_uri(batch) else {}
        return [_list_entry(entries[row], listed, started) for row in batches[batch]]

    table = SourceTable()
    names = list(batches)
    with ThreadPoolExecutor(2 * cpu_count()) as pool:
        # A part at a time, or the threads would leave this one far behind.
        for first in range(0, len(names), BATCHES):
            for found in pool.map(list_batch, names[first : first + BATCHES]):
                for source in found:
                    table.append(source)
    rows = [row for name in names for row in batches[name]]
    order = np.argsort(rows).tolist()
    # Most folders hold either files or folders, and come in order.
    if order == list(range(len(rows))):
        return table
    return SourceTable(table[row] for row in order)


def _list_entry(entry: Entry, listed: dict[str, tuple[int, str]], started: float) -> Source:
    """The source of an entry; ``listed``: facts of the files in its folder if that is remote."""
    source = Source(uri=_text(entry.uri), path=entry.location, fault=_text(entry.fault))
    if entry.fault:
        return source
    try:
        if storage.is_uri(entry.location):
            return _list_remote(source, listed)
        return _list_local(source, started)
    except OSError as exc:
        name = Path(exc.filename or entry.location).name
        what = "the file" if name == Path(entry.location).name else f"its file {name}"
        return replace(source, fault=_text(f"{what} cannot be read: {exc.strerror or exc}"))


def _list_local(source: Source, started: float) -> Source:
    path = Path(source.path)
    if not path.is_dir():
        status = readable_stat(path)
        settled = status.st_ctime < started - SETTLED_SECONDS
        stamp = storage.local_stamp(status) if settled else ""
        return replace(source, bytes=status.st_size, stamp=stamp)
    facts = {}
    for file in content_files(path):
        status = readable_stat(file)
        settled = status.st_ctime < started - SETTLED_SECONDS
        facts[file.name] = (status.st_size, storage.local_stamp(status) if settled else "")
    return _frame_folder(source, facts)


def readable_stat(path: Path) -> os.stat_result:
    """Size and times of a regular file that may be read; nothing of it is read.

    Raises:
        OSError: it is missing, a pipe or a device, or reading it is not permitted.
    """
    status = regular_stat(path)
    # The effective user: a service may run with another one than it was started with.
    effective = os.access in os.supports_effective_ids
    if not os.access(path, os.R_OK, effective_ids=effective):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return status


def _list_remote(source: Source, listed: dict[str, tuple[int, str]]) -> Source:
    name = source.path.rpartition("/")[2]
    if name in listed:
        size, stamp = listed[name]
        return replace(source, bytes=size, stamp=stamp)
    files = storage.file_facts(source.path)
    return _frame_folder(source, {name: facts for name, facts in files.items() if is_image(name)})


def _frame_folder(source: Source, facts: dict[str, tuple[int, str]]) -> Source:
    """A frame folder from the facts of its frames; it is unchanged only if all of them are."""
    lines = [f"{name}\0{size} {stamp}\n" for name, (size, stamp) in sorted(facts.items())]
    known = all(stamp for _, stamp in facts.values())
    return replace(
        source,
        bytes=sum(size for size, _ in facts.values()),
        files=len(facts),
        stamp=short_hash("".join(lines)) if known else "",
    )


def short_hash(text: str) -> str:
    """32 hex digits of a SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _text(name: str) -> str:
    """File names need not be UTF-8, JSON must be."""
    # Nearly all are, and need no copy.
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")
