"""What this folder's builds have read so far: local knowledge that makes a rerun cheap.

``.state/*.jsonl`` beside the shards holds one JSON array per line:

    ["source", URI, stamp, SHA-256, seconds]                  content while the listing said `stamp`
    ["shard", name, bytes, stamp, spec, sidecar, contents]    a tar as it was written, and from what

No digest depends on it. A source whose listing still says the same stamp is unchanged, a tar of the
same size and stamp is intact; everything else is hashed again by a task and compared with the
sidecar. Without the files, or with those of another machine, a rerun is slow and its result equal.
"""

from __future__ import annotations

import io
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
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
    """The state of the folder ``out``, loaded. What is recorded goes to a new file at intervals.

    What was loaded of sources is only needed to plan, and can be released then: of a million
    sources it is 300 MB.
    """

    def __init__(self, out: str) -> None:
        self._folder = storage.join(out, FOLDER)
        self._sources: dict[str, tuple[str, str, float]] = {}
        self._shards: dict[str, KnownShard] = {}
        self._files: list[str] = []
        self._pending: list[list[Any]] = []
        self._flushed = time.monotonic()
        self._load()
        self._loaded_sources = len(self._sources)
        self._unchanged_sources = 0
        self._recorded = False

    def known(self, sources: Iterable[Source]) -> dict[str, Known]:
        """What is known of the sources that are unchanged since it was read, by URI."""
        found = {}
        for source in sources:
            stamp, sha256, seconds = self._sources.get(source.uri, ("", "", 0.0))
            if stamp and stamp == source.stamp:
                found[source.uri] = Known(sha256=sha256, seconds=seconds)
        self._unchanged_sources = len(found)
        return found

    def uris(self) -> Set[str]:
        """All sources that were read before, unchanged or not."""
        return self._sources.keys()

    def release_sources(self) -> None:
        """Free what was loaded of sources; ``known`` and ``uris`` are empty from here on."""
        self._sources = {}

    def shard(self, name: str) -> KnownShard | None:
        """What is known of a shard."""
        return self._shards.get(name)

    def record_sources(self, sources: Iterable[Source], known: Mapping[str, Known]) -> None:
        """Remember what was read of sources that are listed with a stamp."""
        for source in sources:
            if source.stamp and source.uri in known:
                self._pending.append(_source_row(source, known[source.uri]))
        self._recorded = True
        self._flush_if_due()

    def record_shard(self, name: str, shard: KnownShard) -> None:
        """Remember a shard as it was written."""
        self._shards[name] = shard
        self._pending.append(_shard_row(name, shard))
        self._recorded = True
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

    def compact(
        self, sources: Sequence[Source], known: Mapping[str, Known], shards: Sequence[str]
    ) -> None:
        """Replace all files by one that holds these sources and shards only.

        A source of which nothing is known is recorded without a stamp, so that the next build does
        not take it for a new one.
        """
        earlier = [*self._files]
        same_sources = self._loaded_sources == self._unchanged_sources == len(sources)
        same_shards = len(self._shards) == len(shards)
        if len(earlier) == 1 and same_sources and same_shards and not self._recorded:
            return
        self._shards = {name: self._shards[name] for name in shards if name in self._shards}
        self._pending = []
        self._write(f"{time.time_ns():020d}-{os.getpid()}.jsonl", self._rows(sources, known))
        for name in earlier:
            storage.remove(storage.join(self._folder, name))
        self._files = [name for name in self._files if name not in earlier]

    def _rows(self, sources: Iterable[Source], known: Mapping[str, Known]) -> Iterator[list[Any]]:
        nothing = Known()
        for source in sources:
            yield _source_row(source, known.get(source.uri, nothing))
        for name, shard in self._shards.items():
            yield _shard_row(name, shard)

    def _load(self) -> None:
        if storage.kind(self._folder) != "folder":
            return
        names = sorted(storage.listing(self._folder)[0])
        self._files = [name for name in names if name.endswith(".jsonl")]
        for name in self._files:
            contents = io.BytesIO(storage.read(storage.join(self._folder, name)))
            for line in contents:
                self._load_line(line.decode("utf-8", "replace"))

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
        contents = io.BytesIO()
        for row in rows:
            contents.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        storage.write(storage.join(self._folder, name), contents.getvalue())
        self._files.append(name)


def _source_row(source: Source, read: Known) -> list[Any]:
    stamp = source.stamp if read.sha256 or read.seconds else ""
    return ["source", source.uri, stamp, read.sha256, read.seconds]


def _shard_row(name: str, shard: KnownShard) -> list[Any]:
    return ["shard", name, shard.bytes, shard.stamp, shard.spec, shard.sidecar, shard.contents]
