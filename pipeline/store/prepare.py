"""Before the tasks: what is complete already. After them: the index and the manifest.

``plan.json`` is written first and marks a folder as this project's. ``manifest.json`` exists only
while every shard that the index names is complete: it is renamed to ``.manifest.json`` before any
shard is built, so that its index can still be read, and written last.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.common.config import digest
from corrfractal.common.errors import CallError, CorrFractalError, IntegrityError
from corrfractal.files import storage
from corrfractal.shards.clip import SCHEMA
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import (
    EARLIER_MANIFEST,
    MANIFEST,
    QUARANTINE,
    Manifest,
    Sidecar,
    load_manifest,
    read_sealed,
    sidecar_name,
)
from pipeline.discover.work_plan import Known, Plan, ShardSpecs

from .migration import earlier_layout
from .pending import PendingTasks
from .state import BuildState, contents_hash, shard_stamp

PLAN = "plan.json"
SHARD = r"shard-([0-9a-f]{16}|\d{6,})\.(tar|json)"
# By a killed run
OWN_NAME = rf"({SHARD}|manifest\.json|plan\.json|quarantine\.jsonl|urls\.txt)"
HALF_WRITTEN = rf"\.{{1,2}}{OWN_NAME}\..*(tmp|segment)"
THREADS = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What a folder contains of a plan.

    Attributes:
        pending: shards to build or to check.
        kept: bool, whether the earlier index describes a shard, of each of the plan.
        index: the earlier index, or None.
        facts: of the folder's files before the build, see ``storage.file_facts``.
    """

    pending: PendingTasks
    kept: npt.NDArray[np.bool_]
    index: Index | None
    facts: dict[str, tuple[int, str]] = field(default_factory=dict)


def prepare(
    out: str,
    plan: Plan,
    state: BuildState,
    known: Mapping[str, Known],
    *,
    retry_quarantined: bool = False,
) -> Preparation:
    """Find out which shards of a plan are still to be built. Nothing is written.

    Args:
        out: folder of the shards; need not exist.
        plan: the work.
        state: of the folder.
        known: of the sources, by URI.
        retry_quarantined: also build shards with quarantined sources again.
    """
    # An object store has no empty folders.
    facts = storage.file_facts(out) if storage.kind(out) == "folder" else {}
    manifest = _earlier_manifest(out, facts)
    index = None if manifest is None else _intact_index(out, manifest)
    bad = _quarantined(index) if retry_quarantined and index is not None else frozenset()
    done = _done_shards(plan.shards, facts, state, known)
    sidecars = {} if index is None else _sidecars_by_name(index)
    kept = np.zeros(len(plan.shards), dtype=bool)
    pending = []
    rebuild = set()
    for number, name in enumerate(plan.shards.names):
        if bad and not bad.isdisjoint(plan.shards.uris(number)):
            rebuild.add(number)
            pending.append(number)
        elif number not in done:
            pending.append(number)
        else:
            kept[number] = sidecars.get(name) == done[number]
    earlier = _earlier_shards(out, plan, manifest, index, facts, pending)
    tasks = PendingTasks(plan.shards, pending, rebuild, earlier)
    return Preparation(pending=tasks, kept=kept, index=index, facts=facts)


def begin(out: str, plan: Plan, preparation: Preparation) -> None:
    """Mark the folder as this project's, and its manifest as outdated if anything will change.

    Raises:
        CallError: ``out`` is no folder, or contains shards, a plan or a manifest of others.
    """
    try:
        storage.make_folder(out)
    except OSError as exc:
        raise CallError(f"cannot make the folder {out}: {exc.strerror or exc}") from exc
    _refuse_foreign(out, set(preparation.facts))
    _remove(out, preparation.facts, HALF_WRITTEN)
    storage.write(storage.join(out, PLAN), _plan_text(plan))
    if preparation.pending:
        retire_manifest(out)


def retire_manifest(out: str) -> None:
    """Rename the manifest, if there is one, before anything that it names changes."""
    location = storage.join(out, MANIFEST)
    # A listing may be late, so it is not asked.
    try:
        contents = storage.read(location)
    except FileNotFoundError:
        return
    storage.write(storage.join(out, EARLIER_MANIFEST), contents)
    storage.remove(location)


def _done_shards(
    shards: ShardSpecs,
    facts: Mapping[str, tuple[int, str]],
    state: BuildState,
    known: Mapping[str, Known],
) -> dict[int, str]:
    """Shards that were built from these specifications and contents, and are intact: the digest of
    the sidecar by number."""
    numbers = {name: number for number, name in enumerate(shards.names)}
    done: dict[int, str] = {}
    for name, shard in state.shards():
        number = numbers.get(name)
        if number is None:
            continue
        size, tar_stamp = facts.get(name, (0, ""))
        _, sidecar_stamp = facts.get(sidecar_name(name), (0, ""))
        stamp = shard_stamp(tar_stamp, sidecar_stamp)
        is_intact = (size, stamp) == (shard.bytes, shard.stamp) and bool(stamp)
        done.pop(number, None)
        if is_intact and shard.spec == shards.digests[number]:
            contents = contents_hash(shards.uris_and_faults(number), known)
            if shard.contents == contents != "":
                done[number] = shard.sidecar
    return done


def _earlier_manifest(out: str, facts: Mapping[str, tuple[int, str]]) -> Manifest | None:
    for name in (MANIFEST, EARLIER_MANIFEST):
        if name in facts:
            try:
                return load_manifest(storage.join(out, name))
            except (IntegrityError, CorrFractalError):
                continue
    return None


def _intact_index(out: str, manifest: Manifest) -> Index | None:
    """The index that a manifest names, or None if one of its files is missing or another one."""
    index = Index(out, manifest)
    try:
        index.check()
    except IntegrityError:
        # Of a build that was killed while it wrote the index, for example. All rows are read from
        # the sidecars again.
        return None
    return index


def _sidecars_by_name(index: Index) -> dict[str, str]:
    """Digest of the sidecar of every shard."""
    table = index.shard_table
    names = table.column("name").to_pylist()
    return dict(zip(names, table.column("sidecar").to_pylist(), strict=True))


def _quarantined(index: Index) -> frozenset[str]:
    import pyarrow.compute as pc

    table = index.lost_table()
    mask = pc.equal(table.column("outcome"), "quarantined")
    return frozenset(table.filter(mask).column("uri").to_pylist())


def _earlier_shards(
    out: str,
    plan: Plan,
    manifest: Manifest | None,
    index: Index | None,
    facts: Mapping[str, tuple[int, str]],
    pending: Sequence[int],
) -> dict[str, str]:
    """Name of the shard that holds clips of a pending segment, by name of the segment.

    Only a build of the same configuration and library versions stored the same bytes. Segments of
    long videos are shards of their own, so only those of short videos can move.
    """
    if manifest is None or index is None:
        return earlier_layout(out, plan, facts)
    if (manifest.config, manifest.versions) != (plan.config, plan.versions):
        return {}
    import pyarrow as pa
    import pyarrow.compute as pc

    shards = plan.shards
    uris = [uri for number in pending if shards.counts[number] == 1 for uri in shards.uris(number)]
    if not uris:
        return {}
    table = index.source_columns("uri", "shards")
    found = table.filter(pc.is_in(table.column("uri"), pa.array(uris)))
    return {f"{row['uri']}#0": row["shards"][0] for row in found.to_pylist() if row["shards"]}


def _refuse_foreign(out: str, names: set[str]) -> None:
    """Check that files of our names are ours: the plan, written first with its digest, says so."""
    # A listing may be late, so it is not asked.
    try:
        contents = storage.read(storage.join(out, PLAN))
    except FileNotFoundError:
        contents = None
    if contents is not None:
        try:
            values = json.loads(contents)
            ours = values.pop("digest") == digest(values)
        except (ValueError, TypeError, KeyError, AttributeError):
            ours = False
        if not ours:
            raise CallError(
                f"{storage.join(out, PLAN)} is not what this command wrote; name another folder "
                "with --out"
            )
        return
    foreign = sorted(
        name for name in names if re.fullmatch(SHARD, name) or name in (MANIFEST, QUARANTINE)
    )
    if foreign:
        raise CallError(
            f"{out} contains {foreign[0]}, which this command did not write; name another folder "
            "with --out"
        )


def stale_files(plan: Plan, facts: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Facts of the tars and sidecars that a plan does not name."""
    planned = set(plan.shards.names)
    return {
        name: fact
        for name, fact in facts.items()
        if re.fullmatch(SHARD, name) and name[: name.rindex(".")] + ".tar" not in planned
    }


def remove_stale(out: str, stale: Mapping[str, tuple[int, str]], index: Index | None) -> None:
    """Remove ``stale_files``, each tar with its sidecar.

    Only files that existed when the build began are removed, not those of another build of the same
    folder. A tar is only deleted if its sidecar, which is sealed, or the earlier index names it
    with its size.
    """
    sizes = {} if index is None or not stale else _sizes(index)
    tars = [name for name in stale if name.endswith(".tar")]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda name: _remove_shard(out, name, stale, sizes), tars))
    orphans = [
        name
        for name in stale
        if name.endswith(".json") and name.removesuffix(".json") + ".tar" not in stale
    ]
    for name in orphans:
        location = storage.join(out, name)
        # A late listing may lack the tar, which only this sidecar proves to be ours.
        if storage.kind(storage.join(out, name.removesuffix(".json") + ".tar")) == "file":
            continue
        try:
            read_sealed(location, Sidecar)
        except IntegrityError:
            continue  # not ours
        storage.remove(location)
    _remove(out, storage.file_facts(out), HALF_WRITTEN)


def _sizes(index: Index) -> dict[str, int]:
    """Bytes of every shard of an index."""
    table = index.shard_table
    names = table.column("name").to_pylist()
    return dict(zip(names, table.column("bytes").to_pylist(), strict=True))


def _remove_shard(
    out: str, name: str, facts: Mapping[str, tuple[int, str]], indexed: Mapping[str, int]
) -> None:
    location = storage.join(out, name)
    note = storage.join(out, sidecar_name(name))
    try:
        sidecar = read_sealed(note, Sidecar)
        ours = sidecar.name == name and sidecar.bytes == facts[name][0]
    except IntegrityError:
        ours = False
    # ``verify`` removes the sidecars of damaged shards.
    if ours or indexed.get(name) == facts[name][0]:
        storage.remove(location)
        storage.remove(note)
    else:
        log.warning(
            "%s is not what this command wrote there; it is kept, and the index does not name it",
            location,
        )


def _plan_text(plan: Plan) -> bytes:
    """What marks a folder as ours, with its digest; its size is independent of the sources."""
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "config": plan.config,
        "versions": plan.versions,
        "shards": len(plan.shards),
    }
    text = json.dumps({**values, "digest": digest(values)}, indent=1, sort_keys=True)
    return (text + "\n").encode()


def _remove(out: str, names: Iterable[str], pattern: str) -> None:
    """Remove those of the named files that match the pattern."""
    for name in names:
        if re.fullmatch(pattern, name):
            storage.remove(storage.join(out, name))
