"""After the tasks: the columnar index over all shards, quarantine.jsonl, urls.txt, the manifest.

Rows of shards that did not change are taken from the earlier index; the others are read from their
sidecars. The manifest is written last: while it exists, everything that it names is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corrfractal.common.config import digest
from corrfractal.common.errors import CorrFractalError, IntegrityError
from corrfractal.files import storage
from corrfractal.shards.clip import SCHEMA
from corrfractal.shards.index import (
    CLIP_SCHEMA,
    SHARD_SCHEMA,
    SOURCE_SCHEMA,
    Index,
    clip_rows,
    shard_rows,
    source_rows,
    surplus_files,
    write_index,
)
from corrfractal.shards.index import FOLDER as INDEX_FOLDER
from corrfractal.shards.manifest import (
    EARLIER_MANIFEST,
    MANIFEST,
    QUARANTINE,
    QUARANTINE_FIELDS,
    URLS,
    LabelStatistics,
    Manifest,
    Sidecar,
    SourceEntry,
    Statistics,
    load_manifest,
    read_sealed,
    seal,
    sidecar_name,
    to_text,
)
from pipeline.discover.source_table import PackedTexts
from pipeline.discover.work_plan import Plan

from .prepare import THREADS, Preparation, remove_stale, retire_manifest, stale_files

CHUNK = 1000  # sidecars that are in memory at once


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What the index needs of a plan.

    A driver drops the plan before it builds the index: both together would take twice the memory.

    Attributes:
        config, versions, refused: as in ``Plan``.
        names: of all shards, in stored order.
        reread: bool, of each shard whether its sidecar is read.
        kept_uris: sources whose rows are taken from the earlier index.
        index: the earlier index, or None.
        stale: facts of shards, of before the build, that the plan does not name, by file.
        current: the folder's manifest, if it describes the plan already.
    """

    config: dict[str, Any]
    versions: dict[str, str]
    refused: tuple[SourceEntry, ...]
    names: Sequence[str]
    reread: npt.NDArray[np.bool_]
    kept_uris: Sequence[str]
    index: Index | None
    stale: dict[str, tuple[int, str]]
    current: Manifest | None


def outline_of(out: str, plan: Plan, preparation: Preparation) -> Outline:
    """What ``commit`` needs, without the sources of the plan."""
    shards = plan.shards
    reread = _shards_to_read(plan, preparation)
    kept = np.flatnonzero(~reread).tolist()
    kept_uris = PackedTexts(uri for number in kept for uri in shards.uris(number))
    return Outline(
        config=plan.config,
        versions=plan.versions,
        refused=plan.refused,
        names=shards.names,
        reread=reread,
        kept_uris=kept_uris,
        index=preparation.index,
        stale=stale_files(plan, preparation.facts),
        current=_current_manifest(out, plan, preparation),
    )


def commit(out: str, outline: Outline) -> Manifest:
    """Write index, ``quarantine.jsonl``, ``urls.txt`` and manifest; remove what no plan names.

    Raises:
        CorrFractalError: no source gave a single clip, or a source changed during the build.
        IntegrityError: a sidecar is missing or damaged.
    """
    if outline.current is not None:
        return outline.current
    # Arrow's own allocator keeps the memory of small columns that were joined: 250 MB of a million
    # sources.
    pa.set_memory_pool(pa.system_memory_pool())
    shards, clips, sources = _tables(out, outline)
    texts = _texts(shards, sources)
    storage.write(storage.join(out, QUARANTINE), texts[QUARANTINE])
    _check_any_clip(out, sources)

    # The manifest goes before the index changes, since readers check one by the other.
    retire_manifest(out)
    storage.write(storage.join(out, URLS), texts[URLS])
    manifest = Manifest(
        schema=SCHEMA,
        config=outline.config,
        config_digest=digest(outline.config),
        versions=outline.versions,
        shards_digest=_rows_digest(shards, ("name", "sha256", "samples")),
        sources_digest=_rows_digest(sources, ("uri", "sha256", "outcome", "stage", "reason")),
        statistics=_statistics(shards, sources),
        index=write_index(out, shards, clips, sources),
    )
    # What follows makes tables of its own.
    del clips, sources
    sealed = seal(manifest)
    storage.write(storage.join(out, MANIFEST), to_text(sealed).encode())
    remove_stale(out, outline.stale, outline.index)
    for name in surplus_files(out, sealed.index):
        storage.remove(storage.join(out, name))
    # Last, since it marks a folder that is not cleaned yet.
    storage.remove(storage.join(out, EARLIER_MANIFEST))
    check_stored(out, sealed, shards)
    return sealed


def check_stored(out: str, manifest: Manifest, shards: pa.Table) -> None:
    """Check that the index is the one that was written and that all shards exist with their sizes.

    Raises:
        CorrFractalError: another build of the same folder removed or replaced something; the
            manifest is removed.
    """
    lost = _lost_file(out, manifest, shards)
    if lost is None:
        return
    location = storage.join(out, MANIFEST)
    # The other build may have written its own, which names what is stored now.
    if storage.kind(location) == "file" and storage.read(location) == to_text(manifest).encode():
        storage.remove(location)
    raise CorrFractalError(
        f"{lost} was removed or replaced, probably by another build of {out}: wait for it or stop "
        "it, then run the same command again"
    )


def _lost_file(out: str, manifest: Manifest, shards: pa.Table) -> str | None:
    try:
        Index(out, manifest).check()
    except IntegrityError:
        return storage.join(out, INDEX_FOLDER)
    facts = storage.file_facts(out)
    names = shards.column("name").to_pylist()
    for name, expected in zip(names, shards.column("bytes").to_pylist(), strict=True):
        if facts.get(name, (-1, ""))[0] == expected:
            continue
        # A listing may be late.
        location = storage.join(out, name)
        try:
            size, _ = storage.file_fact(location)
        except OSError:
            size = -1
        if size != expected:
            return location
    return None


def _current_manifest(out: str, plan: Plan, preparation: Preparation) -> Manifest | None:
    """The manifest of the folder, if it describes this plan already."""
    if preparation.pending or not preparation.kept.all():
        return None
    index = preparation.index
    facts = preparation.facts
    # A build that was killed while it cleaned the folder leaves the earlier manifest, and what
    # another machine removed or a user restored shows in the names.
    is_clean = EARLIER_MANIFEST not in facts and not stale_files(plan, facts)
    if MANIFEST not in facts or index is None or not is_clean:
        return None
    manifest = load_manifest(out)
    same_recipe = (manifest.config, manifest.versions) == (plan.config, plan.versions)
    lost = index.lost_table()
    refused = [(entry.uri, entry.sha256) for entry in plan.refused]
    same_shards = index.shard_files.column("name").to_pylist() == list(plan.shards.names)
    same_rows = same_shards and _refused_rows(lost) == refused
    if not same_recipe or not same_rows or surplus_files(out, manifest.index):
        return None
    texts = _texts(index.shard_files, lost)
    try:
        same_texts = all(
            storage.read(storage.join(out, name)) == text for name, text in texts.items()
        )
    except FileNotFoundError:
        return None
    return manifest if same_texts else None


def _refused_rows(sources: pa.Table) -> list[tuple[str, str]]:
    """URI and SHA-256 of the sources that were rejected as copies of others."""
    mask = pc.and_(
        pc.equal(sources.column("outcome"), "rejected"), pc.equal(sources.column("stage"), "read")
    )
    rows = sources.filter(mask).select(["uri", "sha256"]).to_pylist()
    return [(row["uri"], row["sha256"]) for row in rows]


def _tables(out: str, outline: Outline) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Shards, clips and sources of a plan, in stored order."""
    index = outline.index
    new_shards = []
    new_clips = []
    new_sources = []
    long_videos: dict[str, list[tuple[SourceEntry, str]]] = {}
    names = [outline.names[number] for number in np.flatnonzero(outline.reread).tolist()]
    for first, sidecars in _read_sidecars(out, names):
        new_shards.append(shard_rows(sidecars))
        new_clips.append(clip_rows(sidecars, first))
        # Rows at once, not objects until the end: entries take five times the memory.
        new_sources.append(_short_source_rows(sidecars))
        for sidecar in sidecars:
            for entry in sidecar.sources:
                if entry.segments > 1:
                    long_videos.setdefault(entry.uri, []).append((entry, sidecar.name))
    read_shards = pa.concat_tables([SHARD_SCHEMA.empty_table(), *new_shards])
    read_clips = pa.concat_tables([CLIP_SCHEMA.empty_table(), *new_clips])

    # Rows of both, old ones first, then brought into the order of the plan.
    kept_shards = SHARD_SCHEMA.empty_table()
    kept_clips = CLIP_SCHEMA.empty_table()
    kept_sources = SOURCE_SCHEMA.empty_table()
    if index is not None and len(names) < len(outline.names):
        kept_shards = index.shard_table
        kept_clips = pa.concat_tables(list(index.clip_tables()))
        table = index.source_columns(*SOURCE_SCHEMA.names)
        wanted = pa.array(list(outline.kept_uris), pa.string())
        kept_sources = table.filter(pc.is_in(table.column("uri"), wanted))
    first_new = len(kept_shards)
    both_shards = pa.concat_tables([kept_shards, read_shards])
    moved = pc.add(read_clips.column("shard"), pa.scalar(first_new, pa.int32()))
    both_clips = pa.concat_tables([kept_clips, read_clips.set_column(0, "shard", moved)])
    rows = {name: row for row, name in enumerate(kept_shards.column("name").to_pylist())}
    rows |= {
        name: first_new + row for row, name in enumerate(read_shards.column("name").to_pylist())
    }
    order = np.array([rows[name] for name in outline.names], dtype=np.int64)
    shards = _in_order(both_shards, order)
    clips = _clips_in_order(both_clips, order, len(both_shards))
    joined = _joined_source_rows(long_videos, outline.refused)
    sources = pa.concat_tables([kept_sources, *new_sources, joined])
    sources = _in_order(sources, pc.sort_indices(sources, [("uri", "ascending")]).to_numpy())
    # Parquet renames the items of lists, and equal rows must give equal files.
    return shards.cast(SHARD_SCHEMA), clips.cast(CLIP_SCHEMA), sources.cast(SOURCE_SCHEMA)


def _shards_to_read(plan: Plan, preparation: Preparation) -> npt.NDArray[np.bool_]:
    """Shards whose sidecars are read: those that changed, and the others of the same long video,
    since the index has one row for all segments of it."""
    shards = plan.shards
    changed = ~preparation.kept
    long = np.flatnonzero(shards.counts > 1).tolist()
    videos = {shards.uris(number)[0] for number in long if changed[number]}
    for number in long:
        changed[number] |= shards.uris(number)[0] in videos
    return changed


def _read_sidecars(out: str, names: Sequence[str]) -> Iterator[tuple[int, list[Sidecar]]]:
    """Sidecars in chunks, each with the position of its first in ``names``."""

    def read(name: str) -> Sidecar:
        return read_sealed(storage.join(out, sidecar_name(name)), Sidecar)

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(names), CHUNK):
            yield start, list(pool.map(read, names[start : start + CHUNK]))


def _clips_in_order(clips: pa.Table, order: np.ndarray, shards: int) -> pa.Table:
    """Clips in the order of their shards, which are renumbered.

    Args:
        clips: sorted by shard.
        order: int64, row of the shard that comes first, second, ...
        shards: number of rows that ``clips`` refers to.
    """
    shard = clips.column("shard").to_numpy()
    starts = np.searchsorted(shard, np.arange(shards))
    stops = np.searchsorted(shard, np.arange(shards), side="right")
    pieces = [np.arange(starts[row], stops[row]) for row in order]
    taken = _in_order(clips, np.concatenate([np.empty(0, dtype=np.int64), *pieces]))
    numbers = np.repeat(np.arange(len(order), dtype=np.int32), (stops - starts)[order])
    return taken.set_column(0, CLIP_SCHEMA.field("shard"), pa.array(numbers))


def _in_order(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Rows of a table in another order; a first build has them in order, and needs no copy."""
    if len(rows) == len(table) and np.array_equal(rows, np.arange(len(table))):
        return table
    return table.take(pa.array(rows))


def _short_source_rows(sidecars: Sequence[Sidecar]) -> pa.Table:
    """Rows of the sources that one shard contains completely."""
    rows = []
    for sidecar in sidecars:
        for entry in sidecar.sources:
            if entry.segments == 1:
                rows.append((entry, [sidecar.name] if entry.clips else []))
    return source_rows(rows)


def _joined_source_rows(
    long_videos: dict[str, list[tuple[SourceEntry, str]]], refused: Sequence[SourceEntry]
) -> pa.Table:
    """Rows of sources that are cut into segments, and of copies of other sources."""
    joined = []
    for entries in long_videos.values():
        names = [name for entry, name in entries if entry.clips]
        joined.append((join_segments([entry for entry, _ in entries]), names))
    joined += [(entry, []) for entry in refused]
    return source_rows(joined)


def join_segments(parts: Sequence[SourceEntry]) -> SourceEntry:
    """The entry of a source from those of its segments, in their order.

    One damaged segment puts the source into quarantine, with the clips of all others as salvaged; a
    segment without a clip counts only if no other has one.

    Raises:
        CorrFractalError: its segments were made from different contents.
    """
    if len({part.sha256 for part in parts if part.sha256}) > 1:
        raise CorrFractalError(
            f"{parts[0].uri} changed while its segments were built: run the same command again"
        )
    by_outcome = {part.outcome: part for part in reversed(parts)}  # the first of each
    telling = by_outcome.get("quarantined") or by_outcome.get("sampled") or parts[0]
    return replace(
        telling,
        segment=0,
        clips=sum(part.clips for part in parts),
        frames=max(part.frames for part in parts),
        cuts=sum(part.cuts for part in parts),
        static=sum(part.static for part in parts),
        frames_stored=sum(part.frames_stored for part in parts),
    )


def _check_any_clip(out: str, sources: pa.Table) -> None:
    if pc.sum(sources.column("clips")).as_py():
        return
    first = sources.slice(0, 1).to_pylist()[0]
    raise CorrFractalError(
        f"none of the {len(sources)} sources gave a clip; the first, {first['uri']}: "
        f"{first['reason']}. Sources that could not be read are in "
        f"{storage.join(out, QUARANTINE)}"
    )


def _texts(shards: pa.Table, sources: pa.Table) -> dict[str, bytes]:
    """``urls.txt`` and ``quarantine.jsonl``, by name."""
    names = shards.column("name").to_pylist()
    bad = sources.filter(pc.equal(sources.column("outcome"), "quarantined"))
    lines = []
    for row in bad.to_pylist():
        values = {**row, "frames_salvaged": row["frames_stored"]}
        fields = {name: values[name] for name in QUARANTINE_FIELDS}
        lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
    urls = "".join(f"{name}\n" for name in names)
    return {URLS: urls.encode(), QUARANTINE: "".join(lines).encode()}


def _rows_digest(table: pa.Table, columns: Sequence[str]) -> str:
    """SHA-256 (hex) over one JSON array per row."""
    found = hashlib.sha256()
    for batch in table.select(columns).to_batches(max_chunksize=10_000):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            found.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return found.hexdigest()


def _statistics(shards: pa.Table, sources: pa.Table) -> Statistics:
    def total(table: pa.Table, column: str) -> int:
        return int(pc.sum(table.column(column)).as_py() or 0)

    def outcome(name: str) -> int:
        return int(pc.sum(pc.equal(sources.column("outcome"), name)).as_py() or 0)

    statistics = Statistics(
        samples=total(shards, "samples"),
        frames=total(shards, "frames"),
        bytes=total(shards, "bytes"),
        sources=len(sources),
        sampled=outcome("sampled"),
        quarantined=outcome("quarantined"),
        rejected=outcome("rejected"),
        cuts=total(sources, "cuts"),
        static=total(sources, "static"),
        labels=LabelStatistics(
            by_rank=_sum_lists(shards.column("by_rank").to_pylist()),
            by_used=_sum_lists(shards.column("by_used").to_pylist()),
            dominated=total(shards, "dominated"),
            still=total(shards, "still"),
            compared=total(shards, "compared"),
            changed=total(shards, "changed"),
        ),
    )
    accounted = statistics.sampled + statistics.quarantined + statistics.rejected
    assert accounted == statistics.sources
    return statistics


def _sum_lists(rows: list[list[int]]) -> tuple[int, ...]:
    total: tuple[Any, ...] = ()
    for row in rows:
        total = tuple(a + b for a, b in zip_longest(total, row, fillvalue=0))
    return total
