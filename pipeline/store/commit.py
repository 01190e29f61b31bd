"""Prepare a folder for a plan, and commit its shards to a manifest.

``plan.json`` is written first and marks a folder as this program's. ``manifest.json`` exists only
while every shard that it names is complete: ``prepare`` deletes it before any shard is rebuilt, and
``commit`` writes it last.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import groupby

from corrfractal.common import storage
from corrfractal.common.config import digest
from corrfractal.common.errors import CallError, CorrFractalError, IntegrityError
from corrfractal.shards.clip import SCHEMA
from corrfractal.shards.manifest import (
    MANIFEST,
    QUARANTINE,
    QUARANTINE_FIELDS,
    LabelStatistics,
    Manifest,
    ShardEntry,
    Sidecar,
    SourceEntry,
    Statistics,
    read_sealed,
    seal,
    sidecar_name,
    to_text,
)
from pipeline.discover.work_plan import Plan, ShardSpec, is_plan, plan_text

from .shard_task import is_complete

PLAN = "plan.json"
SHARD_PATTERN = r"shard-\d{6,}\.(tar|json)"
# Temporary files and notes of a killed run
LEFTOVER_PATTERN = (
    rf"\.{{1,2}}({SHARD_PATTERN}|manifest\.json|plan\.json|quarantine\.jsonl)\..*(tmp|segment)"
)
# Hashing releases the interpreter lock, and an object store answers in parallel.
HASH_THREADS = 8

log = logging.getLogger(__name__)


def prepare(out: str, plan: Plan, retry_quarantined: bool) -> list[ShardSpec]:
    """Write the plan into the folder; return the shards that are still to be built.

    Args:
        out: folder of the shards, created if missing.
        plan: the work plan.
        retry_quarantined: rebuild shards that have quarantined sources.

    Raises:
        CallError: ``out`` is no folder, or holds shards, a plan or a manifest of another origin.
    """
    try:
        storage.make_folder(out)
    except OSError as exc:
        raise CallError(
            f"cannot create the folder {out}: {exc.strerror or exc}; name another with --out"
        ) from exc

    # An object store has no empty folders: listing one would fail.
    names = set(storage.listing(out)[0]) if storage.kind(out) else set()
    _refuse_foreign(out, names)
    _remove_matching(out, names, LEFTOVER_PATTERN)
    storage.write(storage.join(out, PLAN), plan_text(plan))

    # Completeness is proved by hashing, not by file times: a crash may leave a torn file.
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        if retry_quarantined:
            list(pool.map(lambda spec: _forget_if_quarantined(out, spec), plan.shards))
        complete = list(pool.map(lambda spec: is_complete(spec, out), plan.shards))
    pending = [spec for spec, done in zip(plan.shards, complete, strict=True) if not done]
    if pending:
        storage.remove(storage.join(out, MANIFEST))
    return pending


def commit(out: str, plan: Plan) -> Manifest:
    """Write ``quarantine.jsonl`` and the manifest over all sidecars; remove the shards of an
    earlier plan.

    Raises:
        CorrFractalError: no source gave a single clip.
        IntegrityError: a sidecar is missing or damaged.
    """

    def load(spec: ShardSpec) -> Sidecar:
        return read_sealed(storage.join(out, sidecar_name(spec.name)), Sidecar)

    # 1. One entry per source, from the entries of its segments.
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        sidecars = list(pool.map(load, plan.shards))
    parts = [entry for sidecar in sidecars for entry in sidecar.sources]
    by_source = groupby(parts, key=lambda entry: entry.uri)
    joined = [join_segments(list(group)) for _, group in by_source]
    entries = sorted([*joined, *plan.refused], key=lambda entry: entry.uri)

    # 2. The quarantine is written even when the build fails below: it holds the reasons.
    quarantine = storage.join(out, QUARANTINE)
    quarantined = [entry for entry in entries if entry.outcome == "quarantined"]
    storage.write(quarantine, "".join(map(_quarantine_line, quarantined)).encode())
    statistics = _statistics(sidecars, entries)
    if statistics.samples == 0:
        reason = next(entry.reason for entry in entries)
        raise CorrFractalError(
            f"none of the {len(entries)} sources gave a clip; the first, {entries[0].uri}: "
            f"{reason}. Damaged sources are listed in {quarantine}"
        )

    # 3. The manifest, whose digest is the data set's identity.
    shards = tuple(
        ShardEntry(
            name=sidecar.name,
            sha256=sidecar.sha256,
            bytes=sidecar.bytes,
            samples=len(sidecar.samples),
            sidecar=sidecar.digest,
        )
        for sidecar in sidecars
    )
    manifest = seal(
        Manifest(
            schema=SCHEMA,
            config=plan.config,
            config_digest=digest(plan.config),
            versions=plan.versions,
            shards=shards,
            sources=tuple(entries),
            statistics=statistics,
        )
    )
    storage.write(storage.join(out, MANIFEST), to_text(manifest).encode())

    # 4. Remove what no longer belongs to the data set.
    names = set(storage.listing(out)[0])
    tars = {spec.name for spec in plan.shards}
    sidecar_names = {sidecar_name(spec.name) for spec in plan.shards}
    _remove_stale(out, names - tars - sidecar_names)
    _remove_matching(out, names, LEFTOVER_PATTERN)
    return manifest


def join_segments(parts: Sequence[SourceEntry]) -> SourceEntry:
    """The entry of a source from the entries of its segments, in their order.

    One damaged segment quarantines the source; the clips of the others count as salvaged. A segment
    without a clip decides the outcome only if no other segment has one.
    """
    # Reversed, so that the first part of each outcome stays.
    first_of = {part.outcome: part for part in reversed(parts)}
    deciding = first_of.get("quarantined") or first_of.get("sampled") or parts[0]
    return replace(
        deciding,
        segment=0,
        clips=sum(part.clips for part in parts),
        frames=max(part.frames for part in parts),
        cuts=sum(part.cuts for part in parts),
        static=sum(part.static for part in parts),
        frames_stored=sum(part.frames_stored for part in parts),
    )


def _quarantine_line(entry: SourceEntry) -> str:
    values = {**asdict(entry), "frames_salvaged": entry.frames_stored}
    fields = {name: values[name] for name in QUARANTINE_FIELDS}
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _statistics(sidecars: Sequence[Sidecar], entries: Sequence[SourceEntry]) -> Statistics:
    outcomes = Counter(entry.outcome for entry in entries)
    assert sum(outcomes.values()) == len(entries)
    return Statistics(
        samples=sum(len(sidecar.samples) for sidecar in sidecars),
        frames=sum(sample.frames for sidecar in sidecars for sample in sidecar.samples),
        bytes=sum(sidecar.bytes for sidecar in sidecars),
        sources=len(entries),
        sampled=outcomes["sampled"],
        quarantined=outcomes["quarantined"],
        rejected=outcomes["rejected"],
        cuts=sum(entry.cuts for entry in entries),
        static=sum(entry.static for entry in entries),
        labels=sum((sidecar.label_statistics for sidecar in sidecars), LabelStatistics()),
    )


def _refuse_foreign(out: str, names: set[str]) -> None:
    """Raise a ``CallError`` if files with this program's names were written by something else.

    WebDataset names shards alike, and any web page has a ``manifest.json``. Only a plan whose
    digest fits proves the origin.
    """
    if PLAN in names:
        location = storage.join(out, PLAN)
        if not is_plan(storage.read(location)):
            raise CallError(
                f"{location} is damaged, or this command did not write it; name another folder "
                "with --out"
            )
        return
    for name in sorted(names):
        if re.fullmatch(SHARD_PATTERN, name) or name in (MANIFEST, QUARANTINE):
            raise CallError(
                f"{out} holds {name}, which this command did not write; name another folder with "
                "--out"
            )


def _remove_stale(out: str, names: set[str]) -> None:
    """Remove shards of an earlier plan with their sidecars. A shard is removed only if its sidecar
    records its name and SHA-256; every other file stays."""
    for name in sorted(names):
        if not re.fullmatch(r"shard-\d{6,}\.tar", name):
            continue
        tar = storage.join(out, name)
        sidecar_location = storage.join(out, sidecar_name(name))
        try:
            sidecar = read_sealed(sidecar_location, Sidecar)
        except IntegrityError:
            ours = False
        else:
            ours = sidecar.name == name and sidecar.sha256 == storage.sha256(tar)
        if ours:
            storage.remove(tar)
            storage.remove(sidecar_location)
        else:
            log.warning(
                f"{tar} was not written by this command, or is damaged. It was kept, and "
                "the manifest leaves it out"
            )


def _forget_if_quarantined(out: str, spec: ShardSpec) -> None:
    """Delete the sidecar of a shard with quarantined sources, so that the shard is rebuilt."""
    location = storage.join(out, sidecar_name(spec.name))
    try:
        sidecar = read_sealed(location, Sidecar)
    except IntegrityError:
        return
    if any(source.outcome == "quarantined" for source in sidecar.sources):
        storage.remove(location)


def _remove_matching(out: str, names: Iterable[str], pattern: str) -> None:
    for name in names:
        if re.fullmatch(pattern, name):
            storage.remove(storage.join(out, name))
