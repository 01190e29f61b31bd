"""The columnar index of a data set: Parquet files that any table library reads.

    index/shards.parquet             one row per shard, in stored order
    index/clips/part-00000.parquet   one row per clip, in the order of shards and of their offsets
    index/sources.parquet            one row per source, sorted by URI, with its outcome

The manifest names the files with their SHA-256. Readers load the columns that they need: training
maps five columns of the clips and holds arrays instead of objects.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from corrfractal.common.errors import IntegrityError
from corrfractal.files import storage

from .manifest import (
    SHA256,
    SHARD_NAME,
    IndexFile,
    LabelStatistics,
    Manifest,
    SampleRef,
    ShardEntry,
    Sidecar,
    SourceEntry,
)

FOLDER = "index"
SHARDS = f"{FOLDER}/shards.parquet"
SOURCES = f"{FOLDER}/sources.parquet"
CLIPS = f"{FOLDER}/clips"
CLIPS_PER_PART = 1_000_000
BATCH_ROWS = 10_000  # in memory at once where rows are read one after another
OWN_FILE = r"(\.?part-\d{5}|\.?shards|\.?sources)\.parquet(\.\d+\.tmp)?"

COUNTS = pa.list_(pa.int64())

SHARD_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("samples", pa.int64()),
        ("frames", pa.int64()),
        # Digest of what the shard was made from, and digest of its sidecar.
        ("spec", pa.string()),
        ("sidecar", pa.string()),
        # Sums over its sources; of a long video, the part that its segment is.
        ("cuts", pa.int64()),
        ("static", pa.int64()),
        ("seconds", pa.float64()),
        # LabelStatistics, field by field.
        ("by_rank", COUNTS),
        ("by_used", COUNTS),
        ("dominated", pa.int64()),
        ("still", pa.int64()),
        ("compared", pa.int64()),
        ("changed", pa.int64()),
    ]
)

CLIP_SCHEMA = pa.schema(
    [
        # Row of index/shards.parquet.
        ("shard", pa.int32()),
        ("key", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int32()),
        ("frames", pa.int16()),
        ("views", pa.int16()),
    ]
)

SOURCE_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("outcome", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("clips", pa.int32()),
        ("frames", pa.int64()),
        ("fps", pa.float64()),
        ("decoder", pa.string()),
        ("first_bad_frame", pa.int64()),
        ("frames_stored", pa.int64()),
        ("segment", pa.int32()),
        ("segments", pa.int32()),
        ("cuts", pa.int32()),
        ("static", pa.int32()),
        # Names of the shards that hold clips of it.
        ("shards", pa.list_(pa.string())),
    ]
)

LABEL_FIELDS = tuple(field.name for field in dataclasses.fields(LabelStatistics))


@dataclass(frozen=True, kw_only=True)
class ClipIndex:
    """Where every clip is stored, as columns of equal length.

    Attributes:
        names: of the shards.
        shard: int32, index into ``names``; never falls.
        offset: int64, first byte of the clip's tar members.
        length: int32, their number of bytes.
        frames, views: int16, numbers of each.
    """

    names: tuple[str, ...]
    shard: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int32]
    frames: npt.NDArray[np.int16]
    views: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.shard)

    def ref(self, position: int) -> SampleRef:
        """One clip. ``key`` is empty: it is the common part of the names of its tar members."""
        return SampleRef(
            shard=self.names[self.shard[position]],
            key="",
            offset=int(self.offset[position]),
            length=int(self.length[position]),
            frames=int(self.frames[position]),
            views=int(self.views[position]),
        )


class Index:
    """The index of a folder of shards; files are read when they are first needed, and checked.

    Args:
        folder: of the shards, a local path or a URI.
        manifest: of the folder.

    Every property raises IntegrityError if a file is missing or is not the one that the manifest
    names.
    """

    def __init__(self, folder: str | Path, manifest: Manifest) -> None:
        self._folder = folder
        self._files = {file.name: file for file in manifest.index}

    def check(self) -> None:
        """Hash all files, one at a time."""
        for name in sorted({SHARDS, SOURCES, *self._files}):
            self._contents(name)

    @cached_property
    def shard_table(self) -> pa.Table:
        """``SHARD_SCHEMA``."""
        return self._read(SHARDS)

    @cached_property
    def source_table(self) -> pa.Table:
        """``SOURCE_SCHEMA``."""
        return self._read(SOURCES)

    def source_columns(self, *columns: str) -> pa.Table:
        """Some columns of ``source_table``, of which the others are not loaded."""
        return self._read(SOURCES, columns)

    def clip_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """``CLIP_SCHEMA``, part by part; ``columns``: only these."""
        for name in self._clip_parts:
            yield self._read(name, columns)

    @property
    def _clip_parts(self) -> list[str]:
        """Names of the index files of clips, in stored order."""
        return sorted(name for name in self._files if name.startswith(f"{CLIPS}/"))

    @cached_property
    def shards(self) -> tuple[ShardEntry, ...]:
        """All shards in stored order, checked: names and hashes become parts of paths."""
        columns = [field.name for field in dataclasses.fields(ShardEntry)]
        rows = self.shard_table.select(columns).to_pylist()
        try:
            return TypeAdapter(tuple[ShardEntry, ...]).validate_python(rows)
        except ValidationError as exc:
            raise self._damaged(SHARDS, str(exc.errors()[0]["msg"])) from exc

    @cached_property
    def shard_files(self) -> pa.Table:
        """Columns ``name``, ``sha256`` and ``bytes`` of all shards in stored order, checked: names
        and hashes become parts of paths."""
        table = self._read(SHARDS, ("name", "sha256", "bytes"))
        for name, pattern in (("name", SHARD_NAME), ("sha256", SHA256)):
            matches = pc.match_substring_regex(table.column(name), pattern)
            if not pc.all(matches, skip_nulls=False).as_py():
                raise self._damaged(SHARDS, f"a value of '{name}' that is none")
        if not pc.all(pc.greater_equal(table.column("bytes"), 0), skip_nulls=False).as_py():
            raise self._damaged(SHARDS, "a negative size")
        return table

    def label_statistics(self) -> Iterator[LabelStatistics]:
        """Counts of labels of each shard, in stored order."""
        for row in self.shard_table.select(LABEL_FIELDS).to_pylist():
            lists = {name: tuple(row[name]) for name in ("by_rank", "by_used")}
            yield LabelStatistics(**{**row, **lists})

    def sources_with_shards(
        self, sha256: str | None = None
    ) -> Iterator[tuple[SourceEntry, tuple[str, ...]]]:
        """Sources, each with the names of the shards that hold clips of it.

        Args:
            sha256: only sources with this content; None: all.
        """
        table = self.source_table
        if sha256 is not None:
            table = table.filter(pc.equal(table.column("sha256"), sha256))
        shards = table.column("shards").to_pylist()
        for entry, names in zip(_entries(table), shards, strict=True):
            yield entry, tuple(names)

    def lost_table(self) -> pa.Table:
        """``SOURCE_SCHEMA`` of quarantined and rejected sources, sorted by URI; rows of others are
        in memory for a moment only."""
        file = self._open(SOURCES)
        batches = (
            batch.filter(pc.not_equal(batch.column("outcome"), "sampled"))
            for batch in file.iter_batches(BATCH_ROWS)
        )
        return pa.Table.from_batches(batches, file.schema_arrow)

    def lost_sources(self) -> Iterator[SourceEntry]:
        """Quarantined and rejected sources, sorted by URI."""
        yield from _entries(self.lost_table())

    @property
    def sources(self) -> Iterator[SourceEntry]:
        """All sources, sorted by URI."""
        yield from _entries(self.source_table)

    @cached_property
    def clips(self) -> ClipIndex:
        """Positions of all clips, without their keys."""
        columns = ("shard", "offset", "length", "frames", "views")
        parts = list(self.clip_tables(columns))
        table = pa.concat_tables(parts).combine_chunks()
        # to_numpy would import pandas: 46 MB in every worker of a training.
        arrays: dict[str, Any] = {
            name: np.from_dlpack(table.column(name).combine_chunks()) for name in columns
        }
        names = tuple(self.shard_files.column("name").to_pylist())
        if any((array < 0).any() for array in arrays.values()):
            raise self._damaged(CLIPS, "a negative number")
        if (arrays["shard"] >= len(names)).any():
            raise self._damaged(CLIPS, "a clip of no shard")
        if (np.diff(arrays["shard"]) < 0).any():
            raise self._damaged(CLIPS, "clips that are not in the order of their shards")
        return ClipIndex(names=names, **arrays)

    def clip_refs(self, positions: Sequence[int]) -> list[SampleRef]:
        """Some clips by their positions in stored order, without their keys.

        One part of the index is loaded at a time.

        Raises:
            IndexError: a position is not below the number of clips.
        """
        refs: dict[int, SampleRef] = {}
        names = [shard.name for shard in self.shards]
        columns = [name for name in CLIP_SCHEMA.names if name != "key"]
        first = 0
        for name in self._clip_parts:
            end = first + self._files[name].rows
            within = [position for position in positions if first <= position < end]
            if within:
                table = self._read(name, columns)
                rows = table.take([position - first for position in within])
                for position, row in zip(within, rows.to_pylist(), strict=True):
                    if min(row.values()) < 0 or row["shard"] >= len(names):
                        raise self._damaged(name, "a clip of no shard, or a negative number")
                    refs[position] = SampleRef(**{**row, "shard": names[row["shard"]], "key": ""})
            first = end
        if len(refs) < len(set(positions)):
            raise IndexError(f"positions of clips must be in 0..{first - 1}, got {positions}")
        return [refs[position] for position in positions]

    def sample_refs(self) -> Iterator[SampleRef]:
        """All clips in stored order, with their keys."""
        names = self.shard_table.column("name").to_pylist()
        for table in self.clip_tables():
            for batch in table.to_batches(max_chunksize=BATCH_ROWS):
                for row in batch.to_pylist():
                    yield SampleRef(**{**row, "shard": names[row["shard"]]})

    def _damaged(self, name: str, reason: str) -> IntegrityError:
        return IntegrityError(
            f"{storage.join(self._folder, name)} holds {reason}: run `corrfractal precompute` again"
        )

    def _read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        return self._open(name).read(columns=None if columns is None else [*columns])

    def _open(self, name: str) -> pq.ParquetFile:
        # pq.read_table would import pandas.
        return pq.ParquetFile(pa.BufferReader(self._contents(name)))

    def _contents(self, name: str) -> bytes:
        location = storage.join(self._folder, name)
        try:
            contents = storage.read(location)
        except FileNotFoundError as exc:
            raise IntegrityError(
                f"{location} is missing: run `corrfractal precompute` again"
            ) from exc
        known = self._files.get(name)
        if known is None or hashlib.sha256(contents).hexdigest() != known.sha256:
            raise IntegrityError(
                f"{location} is not the file that manifest.json names: run `corrfractal "
                "precompute` again"
            )
        return contents


def _entries(table: pa.Table) -> Iterator[SourceEntry]:
    columns = [field.name for field in dataclasses.fields(SourceEntry)]
    for batch in table.select(columns).to_batches(max_chunksize=BATCH_ROWS):
        for row in batch.to_pylist():
            yield SourceEntry(**row)


def shard_rows(sidecars: Iterable[Sidecar]) -> pa.Table:
    """``SHARD_SCHEMA`` of some shards."""
    rows = []
    for sidecar in sidecars:
        row: dict[str, Any] = {
            "name": sidecar.name,
            "sha256": sidecar.sha256,
            "bytes": sidecar.bytes,
            "samples": len(sidecar.samples),
            "frames": sum(sample.frames for sample in sidecar.samples),
            "spec": sidecar.spec,
            "sidecar": sidecar.digest,
            "cuts": sum(source.cuts for source in sidecar.sources),
            "static": sum(source.static for source in sidecar.sources),
            # The entry of a segment counts the frames of its complete video.
            "seconds": sum(
                source.frames / source.fps / source.segments
                for source in sidecar.sources
                if source.fps
            ),
        }
        rows.append(row | vars(sidecar.label_statistics))
    return pa.Table.from_pylist(rows, SHARD_SCHEMA)


def clip_rows(sidecars: Sequence[Sidecar], first: int) -> pa.Table:
    """``CLIP_SCHEMA`` of shards, of which the first is in row ``first`` of the index."""
    rows = [
        {**vars(sample), "shard": shard}
        for shard, sidecar in enumerate(sidecars, start=first)
        for sample in sidecar.samples
    ]
    return pa.Table.from_pylist(rows, CLIP_SCHEMA)


def source_rows(sources: Iterable[tuple[SourceEntry, Sequence[str]]]) -> pa.Table:
    """``SOURCE_SCHEMA`` of sources, each with the names of its shards."""
    rows = [{**vars(entry), "shards": list(shards)} for entry, shards in sources]
    return pa.Table.from_pylist(rows, SOURCE_SCHEMA)


def surplus_files(folder: str | Path, files: Iterable[IndexFile]) -> list[str]:
    """Names below ``folder`` of index files that are not among ``files``: those of an earlier,
    larger index, and what a killed build left half-written."""
    named = {file.name for file in files}
    surplus = []
    for part in (FOLDER, CLIPS):
        location = storage.join(folder, part)
        found = storage.file_facts(location) if storage.kind(location) == "folder" else {}
        names = [f"{part}/{name}" for name in found if re.fullmatch(OWN_FILE, name)]
        surplus += [name for name in names if name not in named]
    return sorted(surplus)


def write_index(
    folder: str | Path, shards: pa.Table, clips: pa.Table, sources: pa.Table
) -> tuple[IndexFile, ...]:
    """Write the index files; each is complete under its name or absent.

    Returns:
        The entries for the manifest. The bytes depend on the rows and the version of pyarrow.
    """
    tables = {SHARDS: shards, SOURCES: sources}
    for part, start in enumerate(range(0, max(1, len(clips)), CLIPS_PER_PART)):
        tables[f"{CLIPS}/part-{part:05d}.parquet"] = clips.slice(start, CLIPS_PER_PART)
    if not storage.is_uri(folder):
        Path(str(folder), CLIPS).mkdir(parents=True, exist_ok=True)
    files = []
    for name, table in sorted(tables.items()):
        buffer = io.BytesIO()
        pq.write_table(table.combine_chunks(), buffer, compression="zstd")
        contents = buffer.getvalue()
        storage.write(storage.join(folder, name), contents)
        sha256 = hashlib.sha256(contents).hexdigest()
        files.append(IndexFile(name=name, sha256=sha256, rows=len(table)))
    return tuple(files)
