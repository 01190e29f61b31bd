"""The plan before the work, the manifest after it, and the check of what lies in the folder.

``plan.json`` is written first and marks a folder as this project's. ``manifest.json`` exists only while every shard
that it names is whole: it goes before any shard is made anew, and comes back last.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corrfractal.config import digest
from corrfractal.errors import CallError, CorrFractalError, IntegrityError
from corrfractal.manifest import (
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
    sidecar_path,
    to_text,
)
from corrfractal.runtime import file_sha256, write_text
from corrfractal.sample import SCHEMA

from .config import PipelineConfig
from .shards import ShardSpec, is_whole
from .sources import Source

PLAN = "plan.json"
HASH_THREADS = 4


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
    """Group sources into shards, in order of their URIs."""
    first: dict[str, Source] = {}
    kept, refused = [], []
    for source in sources:
        twin = first.setdefault(source.sha256, source)
        if twin is source or not source.sha256:
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
    recipe, versions, size = config.recipe(), library_versions(), config.videos_per_shard
    base = [SCHEMA, recipe, versions]
    groups = [tuple(kept[start : start + size]) for start in range(0, len(kept), size)]
    shards = tuple(
        ShardSpec(
            name=f"shard-{number:06d}.tar",
            sources=group,
            digest=digest([*base, number, [[source.uri, source.sha256] for source in group]]),
        )
        for number, group in enumerate(groups)
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

    modules = {"av": av, "decord": decord, "faiss": faiss, "numpy": numpy, "opencv": cv2, "pillow": PIL}
    return {name: str(module.__version__) for name, module in modules.items()}


def prepare(out: Path, plan: Plan, retry_quarantined: bool) -> list[ShardSpec]:
    """Write the plan into the folder; return the shards that are still to be made.

    Args:
        out: made if missing.
        plan: the plan.
        retry_quarantined: also make anew those with quarantined sources.

    Raises:
        CallError: ``out`` is no folder, or holds shards of another origin.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise CallError(f"cannot make the folder {out}: {exc.strerror}") from exc
    if not (out / PLAN).is_file() and next(out.glob("shard-*.tar"), None):
        raise CallError(f"{out} holds shards that this command did not write; name another folder with --out")
    _remove_temporaries(out)
    write_text(out / PLAN, json.dumps(_plan_values(plan), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    if retry_quarantined:
        for spec in plan.shards:
            _forget_if_quarantined(sidecar_path(out / spec.name))
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        whole = list(pool.map(lambda spec: is_whole(spec, out), plan.shards))
    pending = [spec for spec, done in zip(plan.shards, whole, strict=True) if not done]
    if pending:
        (out / MANIFEST).unlink(missing_ok=True)
    return pending


def commit(out: Path, plan: Plan) -> Manifest:
    """Write ``quarantine.jsonl`` and the manifest over all sidecars; remove what an earlier plan left.

    Raises:
        CorrFractalError: no source gave a single clip.
        IntegrityError: a sidecar is missing or damaged.
    """
    sidecars = [read_sealed(sidecar_path(out / spec.name), Sidecar) for spec in plan.shards]
    entries = [entry for sidecar in sidecars for entry in sidecar.sources]
    entries = sorted([*entries, *plan.refused], key=lambda entry: entry.uri)
    bad = [asdict(entry) for entry in entries if entry.outcome == "quarantined"]
    lines = [json.dumps({field: entry[field] for field in QUARANTINE_FIELDS}, ensure_ascii=False) for entry in bad]
    write_text(out / QUARANTINE, "".join(line + "\n" for line in lines))
    statistics = _statistics(sidecars, entries)
    if statistics.samples == 0:
        reason = next(entry.reason for entry in entries)
        raise CorrFractalError(
            f"none of the {len(entries)} sources gave a clip; the first, {entries[0].uri}: {reason}. "
            f"The damaged ones are in {out / QUARANTINE}"
        )
    manifest = seal(
        Manifest(
            schema=SCHEMA,
            config=plan.config,
            config_digest=digest(plan.config),
            versions=plan.versions,
            shards=tuple(
                ShardEntry(name=s.name, sha256=s.sha256, bytes=s.bytes, samples=len(s.samples), sidecar=s.digest)
                for s in sidecars
            ),
            sources=tuple(entries),
            statistics=statistics,
        )
    )
    write_text(out / MANIFEST, to_text(manifest))
    _remove_stale(out, plan)
    _remove_temporaries(out)
    return manifest


def verify(out: Path) -> VerifyReport:
    """Hash everything that the manifest names again.

    Raises:
        NotFoundError, IntegrityError: the manifest is missing or damaged itself.
    """
    manifest = load_manifest(out)
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        damaged = [
            fault for faults in pool.map(lambda shard: list(_faults(out, shard)), manifest.shards) for fault in faults
        ]
    return VerifyReport(
        digest=manifest.digest,
        shards=len(manifest.shards),
        samples=manifest.statistics.samples,
        bytes=manifest.statistics.bytes,
        damaged=tuple(damaged),
    )


def _faults(out: Path, shard: ShardEntry) -> Iterator[str]:
    try:
        load_sidecar(out, shard)
    except IntegrityError as exc:
        yield str(exc)
    try:
        if file_sha256(out / shard.name) != shard.sha256:
            yield f"{out / shard.name} does not hold what was written"
    except OSError as exc:
        yield f"{out / shard.name} cannot be read: {exc.strerror}"


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
        labels=sum((sidecar.label_statistics for sidecar in sidecars), LabelStatistics()),
    )


def _plan_values(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, without the paths of this machine, with its digest."""
    values = asdict(plan)
    for shard in values["shards"]:
        for source in shard["sources"]:
            del source["path"]
    return {"schema": SCHEMA, **values, "digest": digest([SCHEMA, values])}


def _forget_if_quarantined(sidecar: Path) -> None:
    try:
        bad = any(source.outcome == "quarantined" for source in read_sealed(sidecar, Sidecar).sources)
    except IntegrityError:
        return
    if bad:
        sidecar.unlink()


def _remove_stale(out: Path, plan: Plan) -> None:
    """Remove shards and sidecars of earlier plans; nothing else."""
    current = {spec.name for spec in plan.shards}
    for path in out.iterdir():
        if re.fullmatch(r"shard-\d{6,}\.(tar|json)", path.name) and path.with_suffix(".tar").name not in current:
            path.unlink()


def _remove_temporaries(out: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in out.iterdir():
        if re.fullmatch(
            r"\.(shard-\d{6,}\.(tar|json)|manifest\.json|plan\.json|quarantine\.jsonl)\..*(tmp|source)", path.name
        ):
            path.unlink(missing_ok=True)
