"""What this folder's builds have read so far: local knowledge that makes a rerun cheap.

``.state/*.jsonl`` beside the shards holds one JSON array per line:

    ["source", URI, stamp, SHA-256, seconds]                  content while the listing said `stamp`
    ["shard", name, bytes, stamp, spec, sidecar, contents]    a tar as it was written, and from what

No digest depends on it. A source whose listing still says the same stamp is unchanged, a tar of the
same size and stamp is intact; everything else is hashed again by a task and compared with the
sidecar. Without the files, or with those of another machine, a rerun is slow and its result equal.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrfractal.common import storage
from pipeline.discover.segments import Segment
from pipeline.discover.sources import Source, short_hash
from pipeline.discover.work_plan import Known

FOLDER = ".state"
FLUSH_SECONDS = 20.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownShard:
    """A shard as a build wrote it.

    Attributes:
        bytes, stamp: of its tar, see ``storage.file_facts``.
        spec: digest of its specification.
        sidecar: digest of its sidecar.
        contents: ``contents_hash`` of the sources that it was made of.
    """

    bytes: int
    stamp: str
    spec: str
    sidecar: str
    contents: str


def contents_hash(segments: Sequence[Segment], known: Mapping[str, Known]) -> str:
    """Hash of the contents behind some segments; ``""`` if one of them is not known."""
    hashes = []
    for segment in segments:
        source = segment.source
        sha256 = known[source.uri].sha256 if source.uri in known else ""
        if not sha256 and not source.fault:
            return ""
        hashes.append(sha256 or source.fault)
    return short_hash("\n".join(hashes))


class BuildState:
    """The state of the folder ``out``, loaded; what is recorded is kept in memory and, at
    intervals, in a new file."""

    def __init__(self, out: str) -> None:
        self._folder = storage.join(out, FOLDER)
        self._sources: dict[str, tuple[str, str, float]] = {}
        self._shards: dict[str, KnownShard] = {}
        self._files: list[str] = []
        self._pending: list[list[Any]] = []
        self._flushed = time.monotonic()
        self._load()

    def known(self, sources: Iterable[Source]) -> dict[str, Known]:
        """What is known of the sources that are unchanged since it was read, by URI."""
        found = {}
        for source in sources:
            stamp, sha256, seconds = self._sources.get(source.uri, ("", "", 0.0))
            if stamp and stamp == source.stamp:
                found[source.uri] = Known(sha256=sha256, seconds=seconds)
        return found

    def uris(self) -> Set[str]:
        """All sources that were read before, unchanged or not."""
        return self._sources.keys()

    def shard(self, name: str) -> KnownShard | None:
        """What is known of a shard."""
        return self._shards.get(name)

    def record_sources(self, sources: Iterable[Source], known: Mapping[str, Known]) -> None:
        """Remember what was read of sources that are listed with a stamp."""
        for source in sources:
            if source.stamp and source.uri in known:
                read = known[source.uri]
                _, _, seconds = self._sources.get(source.uri, ("", "", 0.0))
                row = (source.stamp, read.sha256, read.seconds or seconds)
                self._sources[source.uri] = row
                self._pending.append(["source", source.uri, *row])
        self._flush_if_due()

    def record_shard(self, name: str, shard: KnownShard) -> None:
        """Remember a shard as it was written."""
        self._shards[name] = shard
        self._pending.append(_shard_row(name, shard))
        self._flush_if_due()

    def flush(self) -> None:
        """Write what was recorded since the last call."""
        if not self._pending:
            return
        self._flushed = time.monotonic()
        # Process and time in the name: two builds of one folder must not overwrite each other's.
        name = f"{time.time_ns():020d}-{os.getpid()}.jsonl"
        try:
            self._write(name, self._pending)
        except OSError as exc:
            # A full disk: what is not remembered is hashed again, and nothing else is lost.
            log.warning("cannot write %s: %s", self._folder, exc.strerror or exc)
            return
        self._pending = []

    def compact(self, uris: Iterable[str], shards: Iterable[str]) -> None:
        """Replace all files by one that holds these sources and shards only."""
        keep = [*self._files]
        sources = {uri: self._sources[uri] for uri in uris if uri in self._sources}
        tars = {name: self._shards[name] for name in shards if name in self._shards}
        if not self._pending and len(keep) == 1 and sources == self._sources:
            return
        self._sources = sources
        self._shards = tars
        rows: list[list[Any]] = [["source", uri, *row] for uri, row in sources.items()]
        rows += [_shard_row(name, shard) for name, shard in tars.items()]
        self._pending = []
        self._write(f"{time.time_ns():020d}-{os.getpid()}.jsonl", rows)
        for name in keep:
            storage.remove(storage.join(self._folder, name))
        self._files = [name for name in self._files if name not in keep]

    def _load(self) -> None:
        if storage.kind(self._folder) != "folder":
            return
        names = sorted(storage.listing(self._folder)[0])
        self._files = [name for name in names if name.endswith(".jsonl")]
        for name in self._files:
            contents = storage.read(storage.join(self._folder, name))
            for line in contents.decode("utf-8", "replace").splitlines():
                self._load_line(line)

    def _load_line(self, line: str) -> None:
        try:
            kind, name, *row = json.loads(line)
            if kind == "source":
                stamp, sha256, seconds = row
                self._sources[str(name)] = (str(stamp), str(sha256), float(seconds))
            elif kind == "shard":
                size, stamp, spec, sidecar, contents = row
                self._shards[str(name)] = KnownShard(
                    bytes=int(size), stamp=stamp, spec=spec, sidecar=sidecar, contents=contents
                )
        except (ValueError, TypeError):
            return  # of a machine that lost power: that line is not known

    def _flush_if_due(self) -> None:
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _write(self, name: str, rows: Iterable[list[Any]]) -> None:
        if not storage.is_uri(self._folder):
            Path(self._folder).mkdir(exist_ok=True)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        storage.write(storage.join(self._folder, name), "".join(lines).encode())
        self._files.append(name)


def _shard_row(name: str, shard: KnownShard) -> list[Any]:
    return ["shard", name, shard.bytes, shard.stamp, shard.spec, shard.sidecar, shard.contents]
