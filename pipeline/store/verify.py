"""Hash everything that the index names again; what is damaged is rebuilt by the next build."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from corrfractal.common.console import progress
from corrfractal.common.errors import IntegrityError
from corrfractal.files import storage
from corrfractal.runtime.ray_tasks import run_tasks
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import ShardEntry, load_manifest, load_sidecar, sidecar_name

BATCH = 8  # shards of a task


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What ``verify`` found: counts, and one sentence per damaged file."""

    digest: str
    shards: int
    samples: int
    bytes: int
    damaged: tuple[str, ...]


def verify(out: str | Path, workers: int | None = None) -> VerifyReport:
    """Hash all shards on Ray, and remove the sidecars of damaged ones.

    A shard without a sidecar is rebuilt by the next ``precompute``. A Ray session must be open.

    Args:
        out: folder of the shards, local or a URI.
        workers: tasks at once; None: one per CPU of the cluster.

    Raises:
        NotFoundError, IntegrityError: the manifest or the index is missing or damaged itself.
    """
    manifest = load_manifest(out)
    shards = Index(out, manifest).shards
    batches = [shards[start : start + BATCH] for start in range(0, len(shards), BATCH)]
    options = {"num_cpus": 1, "max_retries": 3}
    found: dict[str, list[str]] = {}
    with progress("verify", len(shards)) as advance:
        for ended in run_tasks(
            check_shards,
            deque(batches),
            lambda batch: (str(out), batch),
            workers=workers,
            options=options,
        ):
            found |= ended.result()
            advance(len(ended.job))
    return VerifyReport(
        digest=manifest.digest,
        shards=len(shards),
        samples=manifest.statistics.samples,
        bytes=manifest.statistics.bytes,
        damaged=tuple(fault for shard in shards for fault in found.get(shard.name, [])),
    )


def check_shards(out: str, shards: tuple[ShardEntry, ...]) -> dict[str, list[str]]:
    """What is wrong with each damaged shard, by name; the body of a task."""
    found = {}
    for shard in shards:
        faults = _faults(out, shard)
        if faults:
            found[shard.name] = faults
            storage.remove(storage.join(out, sidecar_name(shard.name)))
    return found


def _faults(out: str, shard: ShardEntry) -> list[str]:
    faults = []
    try:
        load_sidecar(out, shard)
    except IntegrityError as exc:
        faults.append(str(exc))
    location = storage.join(out, shard.name)
    try:
        if storage.sha256(location) != shard.sha256:
            faults.append(f"{location} is damaged: its SHA-256 differs from the index")
    except OSError as exc:
        faults.append(f"{location} cannot be read: {exc.strerror or exc}")
    return faults
