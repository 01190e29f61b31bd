"""What this folder's builds have read so far: local knowledge that makes a rerun cheap.

``.state/*.jsonl`` beside the shards holds one JSON array per line:

    ["source", URI, stamp, SHA-256, seconds]                  content while the listing said `stamp`
    ["shard", name, bytes, stamp, spec, sidecar, contents]    a tar as it was written, and from what

`stamp` is empty for a source of which a listing proves nothing, `seconds` null where the header was
not read; the stamp of a shard is that of its tar and of its sidecar, see ``shard_stamp``.
No digest depends on it. A source whose listing still says the same stamp is unchanged, a tar of the
same size and stamp is intact; everything else is hashed again by a task and compared with the
sidecar. Without the files, or with those of another machine, a rerun is slow and its result equal.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrfractal.files import storage
from pipeline.discover.source_table import Source, as_table
from pipeline.discover.sources import short_hash
from pipeline.discover.work_plan import Known

FOLDER = ".state"
FLUSH_SECONDS = 20.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownShard:
    """A shard as a build wrote it.

    Attributes:
        bytes: of its tar.
        stamp: of tar and sidecar, see ``shard_stamp``.
        spec: digest of its specification.
        sidecar: digest of its sidecar.
        contents: ``contents_hash`` of the sources that it was made of.
    """

    bytes: int
    stamp: str
    spec: str
    sidecar: str
    contents: str


def shard_stamp(tar: str, sidecar: str) -> str:
    """Changes when the tar or the sidecar of a shard is written; ``""`` if one of them proves
    nothing.

    Args:
        tar, sidecar: stamp of each, see ``storage.file_facts``.
    """
    return f"{tar} {sidecar}" if tar and sidecar else ""


def contents_hash(sources: Iterable[tuple[str, str]], known: Mapping[str, Known]) -> str:
    """Hash of the contents of sources, given by URI and fault; ``""`` if one is not known."""
    hashes = []
    for uri, fault in sources:
        sha256 = known[uri].sha256 if uri in known else ""
        if not sha256 and not fault:
            return ""
        hashes.append(sha256 or fault)
    return short_hash("\n".join(hashes))


class BuildState:
    """The state of the folder ``out``. What is recorded goes to a new file at intervals.

    Attributes:
        seen, gone: sources of earlier builds, by URI, that ``known`` found listed and not listed.
        changed: earlier SHA-256 of listed sources whose stamp is another one, by URI.
    """

    def __init__(self, out: str) -> None:
        self.seen: set[str] = set()
        self.gone: set[str] = set()
        self.changed: dict[str, str] = {}
        self._folder = storage.join(out, FOLDER)
        self._files: list[str] = []
        self._pending: list[bytes] = []
        self._flushed = time.monotonic()
        if storage.kind(self._folder) == "folder":
            names = sorted(storage.listing(self._folder)[0])
            self._files = [name for name in names if name.endswith(".jsonl")]
        self._recorded_shards = 0
        self._unchanged_sources = 0
        self._recorded = False

    def known(self, sources: Sequence[Source]) -> dict[str, Known]:
        """What is known of the sources that are unchanged since it was read, by URI."""
        table = as_table(sources)
        rows = {uri: row for row, uri in enumerate(table.uris)}
        found: dict[str, Known] = {}
        self.seen = set()
        self.gone = set()
        self.changed = {}
        for _, uri, stamp, sha256, seconds in self._rows("source"):
            row = rows.get(uri)
            if row is None:
                self.gone.add(uri)
                continue
            # The text of the table, not the copy in the file; and later lines replace earlier ones.
            listed = table.uris[row]
            listed_stamp = table.stamps[row]
            self.seen.add(listed)
            if stamp and stamp == listed_stamp:
                found[listed] = Known(sha256=sha256, seconds=seconds)
                self.changed.pop(listed, None)
            else:
                found.pop(listed, None)
                # Without a stamp a listing proves neither that a source changed nor that it did
                # not.
                if listed_stamp:
                    self.changed[listed] = sha256
        self._unchanged_sources = len(found)
        return found

    def shards(self) -> Iterator[tuple[str, KnownShard]]:
        """Shards by name; later ones replace earlier ones of the same name."""
        self._recorded_shards = 0
        for _, name, size, stamp, spec, sidecar, contents in self._rows("shard"):
            self._recorded_shards += 1
            yield (
                name,
                KnownShard(bytes=size, stamp=stamp, spec=spec, sidecar=sidecar, contents=contents),
            )

    def record_sources(self, sources: Iterable[Source], known: Mapping[str, Known]) -> None:
        """Remember what was read of sources."""
        for source in sources:
            if source.stamp and source.uri in known:
                read = known[source.uri]
                row = ["source", source.uri, source.stamp, read.sha256, read.seconds]
                self._pending.append(_line(row))
                self._recorded = True
        self._flush_if_due()

    def record_shard(self, name: str, shard: KnownShard) -> None:
        """Remember a shard as it was written."""
        row = ["shard", name, shard.bytes, shard.stamp, shard.spec, shard.sidecar, shard.contents]
        self._pending.append(_line(row))
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

    def compact(self, sources: Sequence[Source], shards: Sequence[str]) -> None:
        """Replace all files by one that holds these sources and shards only.

        A source of which nothing is known is recorded without a stamp, so that the next build does
        not take it for a new one.
        """
        self.flush()
        earlier = [*self._files]
        same_sources = self._unchanged_sources == len(sources) and not self.gone
        same_shards = self._recorded_shards == len(shards)
        if len(earlier) == 1 and same_sources and same_shards and not self._recorded:
            return
        name = f"{time.time_ns():020d}-{os.getpid()}.jsonl"
        self._write(name, self._latest_lines(earlier, sources, set(shards)))
        for name in earlier:
            storage.remove(storage.join(self._folder, name))
        self._files = [name for name in self._files if name not in earlier]

    def _latest_lines(
        self, files: Sequence[str], sources: Sequence[Source], shards: set[str]
    ) -> Iterator[bytes]:
        """A line of each of these sources and shards from the latest file that has one.

        The files are read again: of a million sources, what was recorded would take 400 MB.
        """
        table = as_table(sources)
        stamps = dict(zip(table.uris, table.stamps, strict=True))
        for file in reversed(files):
            for line in self._lines(file):
                row = _parse(line)
                if row is None:
                    continue
                kind, name, *values = row
                if kind == "shard" and name in shards:
                    shards.remove(name)
                    yield line
                elif kind == "source" and name in stamps and stamps[name] == values[0]:
                    del stamps[name]
                    yield line
        for uri in stamps:
            yield _line(["source", uri, "", "", None])

    def _rows(self, kind: str) -> Iterator[list[Any]]:
        """The rows of one kind in all files, oldest first."""
        start = f'["{kind}"'.encode()
        for name in self._files:
            for line in self._lines(name):
                if line.startswith(start):
                    row = _parse(line)
                    if row is not None:
                        yield row

    def _lines(self, name: str) -> Iterator[bytes]:
        with storage.open_file(storage.join(self._folder, name)) as file:
            for line in file:
                yield line.rstrip(b"\n") + b"\n"

    def _flush_if_due(self) -> None:
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _write(self, name: str, lines: Iterable[bytes]) -> None:
        if not storage.is_uri(self._folder):
            Path(self._folder).mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=storage.scratch(self._folder), prefix=".", suffix=".tmp", delete=False
        ) as file:
            temporary = Path(file.name)
            try:
                file.writelines(lines)
            except BaseException:
                temporary.unlink()
                raise
        temporary.chmod(0o644)
        storage.put(temporary, storage.join(self._folder, name))
        self._files.append(name)


def _line(row: Sequence[Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _parse(line: bytes) -> list[Any] | None:
    """The fields of a line; None for one that a machine wrote halfway when it lost power."""
    try:
        kind, name, *values = json.loads(line)
        if kind == "source":
            stamp, sha256, seconds = values
            length = None if seconds is None else float(seconds)
            return [kind, str(name), str(stamp), str(sha256), length]
        if kind == "shard":
            size, *texts = values
            stamp, spec, sidecar, contents = map(str, texts)
            return [kind, str(name), int(size), stamp, spec, sidecar, contents]
    except (ValueError, TypeError):
        return None
    return None
