"""The plan before the work, the manifest after it, and the check of what the folder holds.

``plan.json`` is written first and marks a folder as this project's. ``manifest.json`` exists only
while every shard that it names is complete: it is deleted before any shard is rebuilt, and written
last.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from corrfractal.common import storage
from corrfractal.common.config import digest
from corrfractal.common.console import say
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
    load_manifest,
    load_sidecar,
    read_sealed,
    seal,
    sidecar_name,
    to_text,
)
from pipeline.config import PipelineConfig
from pipeline.discover.segments import group_segments
from pipeline.discover.sources import Source

from .shard_task import ShardSpec, is_whole

PLAN = "plan.json"
SHARD = r"shard-\d{6,}\.(tar|json)"
# By a killed run
HALF_WRITTEN = rf"\.{{1,2}}({SHARD}|manifest\.json|plan\.json|quarantine\.jsonl)\..*(tmp|segment)"
HASH_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All the work, decided before any of it is done.

    Attributes:
        config: ``PipelineConfig.recipe()``.
        versions: of the libraries that decide bytes.
        shards: what each task makes.
        refused: sources with the same bytes as another one.
    """

    config: dict[str, Any]
    versions: dict[str, str]
    shards: tuple[ShardSpec, ...]
    refused: tuple[SourceEntry, ...]


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What ``verify`` found: counts, and one sentence per damaged file."""

    digest: str
    shards: int
    samples: int
    bytes: int
    damaged: tuple[str, ...]


def make_plan(sources: Sequence[Source], config: PipelineConfig) -> Plan:
    """Cut sources into segments and group these into shards, in order of their URIs."""
    first: dict[str, Source] = {}
    kept, refused = [], []
    for source in sources:
        twin = first.setdefault(source.sha256, source)
        # Empty files have nothing in common, nor have those that cannot be read
        if twin is source or not source.bytes:
            kept.append(source)
        else:
            refused.append(
                SourceEntry(
                    uri=source.uri,
                    sha256=source.sha256,
                    outcome="rejected",
                    stage="read",
                    reason=f"the same bytes as {twin.uri}",
                )
            )
    recipe, versions = config.recipe(), library_versions()
    shards = tuple(
        ShardSpec(
            name=f"shard-{number:06d}.tar",
            segments=group,
            digest=digest(
                [SCHEMA, recipe, versions, number, [segment.facts() for segment in group]]
            ),
        )
        for number, group in enumerate(group_segments(kept, config))
    )
    return Plan(config=recipe, versions=versions, shards=shards, refused=tuple(refused))


def library_versions() -> dict[str, str]:
    """Versions of what decodes, scales, quantises and encodes."""
    import av
    import cv2
    import decord
    import faiss
    import numpy
    import PIL
    import simplejpeg

    modules = {
        "av": av,
        "decord": decord,
        "faiss": faiss,
        "numpy": numpy,
        "opencv": cv2,
        "pillow": PIL,
        "simplejpeg": simplejpeg,
    }
    return {name: str(module.__version__) for name, module in modules.items()}


def prepare(out: str, plan: Plan, retry_quarantined: bool) -> list[ShardSpec]:
    """Write the plan into the folder; return the shards that are still to be made.

    Args:
        out: made if missing.
        plan: the plan.
        retry_quarantined: also make anew those with quarantined sources.

    Raises:
        CallError: ``out`` is no folder, or holds shards, a plan or a manifest of another origin.
    """
    try:
        storage.make_folder(out)
    except OSError as exc:
        raise CallError(f"cannot make the folder {out}: {exc.strerror or exc}") from exc
    # An object store has no empty folders
    there = set(storage.listing(out)[0]) if storage.kind(out) else set()
    _refuse_foreign(out, there)
    _remove(out, there, HALF_WRITTEN)
    storage.write(storage.join(out, PLAN), _plan_text(plan))
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        if retry_quarantined:
            list(pool.map(lambda spec: _forget_if_quarantined(out, spec), plan.shards))
        whole = list(pool.map(lambda spec: is_whole(spec, out), plan.shards))
    pending = [spec for spec, done in zip(plan.shards, whole, strict=True) if not done]
    if pending:
        storage.remove(storage.join(out, MANIFEST))
    return pending


def commit(out: str, plan: Plan) -> Manifest:
    """Write ``quarantine.jsonl`` and the manifest over all sidecars; remove what an earlier plan
    left.

    Raises:
        CorrFractalError: no source gave a single clip.
        IntegrityError: a sidecar is missing or damaged.
    """
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        sidecars = list(
            pool.map(
                lambda spec: read_sealed(storage.join(out, sidecar_name(spec.name)), Sidecar),
                plan.shards,
            )
        )
    parts = [entry for sidecar in sidecars for entry in sidecar.sources]
    joined = [
        join_segments(list(group)) for _, group in groupby(parts, key=lambda entry: entry.uri)
    ]
    entries = sorted([*joined, *plan.refused], key=lambda entry: entry.uri)
    bad = [
        {**asdict(entry), "frames_salvaged": entry.frames_stored}
        for entry in entries
        if entry.outcome == "quarantined"
    ]
    lines = [
        json.dumps({field: entry[field] for field in QUARANTINE_FIELDS}, ensure_ascii=False)
        for entry in bad
    ]
    storage.write(storage.join(out, QUARANTINE), "".join(line + "\n" for line in lines).encode())
    statistics = _statistics(sidecars, entries)
    if statistics.samples == 0:
        reason = next(entry.reason for entry in entries)
        raise CorrFractalError(
            f"none of the {len(entries)} sources gave a clip; the first, {entries[0].uri}: "
            f"{reason}. The damaged ones are in {storage.join(out, QUARANTINE)}"
        )
    manifest = seal(
        Manifest(
            schema=SCHEMA,
            config=plan.config,
            config_digest=digest(plan.config),
            versions=plan.versions,
            shards=tuple(
                ShardEntry(
                    name=s.name,
                    sha256=s.sha256,
                    bytes=s.bytes,
                    samples=len(s.samples),
                    sidecar=s.digest,
                )
                for s in sidecars
            ),
            sources=tuple(entries),
            statistics=statistics,
        )
    )
    storage.write(storage.join(out, MANIFEST), to_text(manifest).encode())
    there = set(storage.listing(out)[0])
    current = {name for spec in plan.shards for name in (spec.name, sidecar_name(spec.name))}
    _remove_stale(out, there - current)
    _remove(out, there, HALF_WRITTEN)
    return manifest


def _refuse_foreign(out: str, there: set[str]) -> None:
    """Check that files of our names are ours: the plan, which is written first and carries its
    digest, says so."""
    if PLAN in there:
        try:
            values = json.loads(storage.read(storage.join(out, PLAN)))
            ours = values.pop("digest") == digest(values)
        except (ValueError, TypeError, KeyError, AttributeError):
            ours = False
        if not ours:
            raise CallError(
                f"{storage.join(out, PLAN)} is not what this command wrote; name another folder "
                "with --out"
            )
    elif foreign := sorted(
        n for n in there if re.fullmatch(SHARD, n) or n in (MANIFEST, QUARANTINE)
    ):
        raise CallError(
            f"{out} holds {foreign[0]}, which this command did not write; name another folder with "
            "--out"
        )


def _remove_stale(out: str, names: set[str]) -> None:
    """Remove shards of an earlier plan, each with its sidecar, which names it with its SHA-256.
    Others stay."""
    for name in sorted(names):
        tar = re.fullmatch(r"(shard-\d{6,})\.tar", name)
        if not tar:
            continue
        location, note = storage.join(out, name), storage.join(out, sidecar_name(name))
        try:
            sidecar = read_sealed(note, Sidecar)
        except IntegrityError:
            ours = False
        else:
            ours = sidecar.name == name and sidecar.sha256 == storage.sha256(location)
        if ours:
            storage.remove(location)
            storage.remove(note)
        else:
            say(
                f"warning: {location} is not what this command wrote there, and was left; the "
                "manifest leaves it out"
            )


def join_segments(parts: Sequence[SourceEntry]) -> SourceEntry:
    """What became of a source from what became of its segments, in their order.

    One damaged segment puts the source into quarantine, with what all the others gave as salvaged;
    a segment without a clip counts only where no other has one.
    """
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


def verify(out: str | Path) -> VerifyReport:
    """Hash everything that the manifest names again.

    Raises:
        NotFoundError, IntegrityError: the manifest is missing or damaged itself.
    """
    manifest = load_manifest(out)
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        damaged = [
            fault
            for faults in pool.map(lambda shard: list(_faults(out, shard)), manifest.shards)
            for fault in faults
        ]
    return VerifyReport(
        digest=manifest.digest,
        shards=len(manifest.shards),
        samples=manifest.statistics.samples,
        bytes=manifest.statistics.bytes,
        damaged=tuple(damaged),
    )


def _faults(out: str | Path, shard: ShardEntry) -> Iterator[str]:
    try:
        load_sidecar(out, shard)
    except IntegrityError as exc:
        yield str(exc)
    try:
        if storage.sha256(storage.join(out, shard.name)) != shard.sha256:
            yield f"{storage.join(out, shard.name)} does not hold what was written"
    except OSError as exc:
        yield f"{storage.join(out, shard.name)} cannot be read: {exc.strerror or exc}"


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


def _plan_text(plan: Plan) -> bytes:
    """The plan as JSON, without the paths of this machine, with its digest."""
    values = {
        "schema": SCHEMA,
        "config": plan.config,
        "versions": plan.versions,
        "shards": [
            {
                "name": spec.name,
                "digest": spec.digest,
                "segments": [segment.facts() for segment in spec.segments],
            }
            for spec in plan.shards
        ],
        "refused": [asdict(entry) for entry in plan.refused],
    }
    text = json.dumps(
        {**values, "digest": digest(values)}, indent=1, sort_keys=True, ensure_ascii=False
    )
    return (text + "\n").encode()


def _forget_if_quarantined(out: str, spec: ShardSpec) -> None:
    location = storage.join(out, sidecar_name(spec.name))
    try:
        bad = any(
            source.outcome == "quarantined" for source in read_sealed(location, Sidecar).sources
        )
    except IntegrityError:
        return
    if bad:
        storage.remove(location)


def _remove(out: str, names: Iterable[str], pattern: str) -> None:
    """Remove those of the named files that fit the pattern."""
    for name in names:
        if re.fullmatch(pattern, name):
            storage.remove(storage.join(out, name))
