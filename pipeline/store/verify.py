"""Check finished shards against their manifest."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from corrfractal.common import storage
from corrfractal.common.errors import IntegrityError
from corrfractal.shards.manifest import ShardEntry, load_manifest, load_sidecar

# Hashing releases the interpreter lock, and an object store answers in parallel.
HASH_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What ``verify`` found.

    Attributes:
        digest: of the manifest, the data set's identity.
        shards, samples, bytes: counts of the manifest.
        damaged: one sentence per damaged or missing file.
    """

    digest: str
    shards: int
    samples: int
    bytes: int
    damaged: tuple[str, ...]


def verify(out: str | Path) -> VerifyReport:
    """Hash every shard and sidecar that the manifest names.

    Raises:
        NotFoundError: there is no manifest.
        IntegrityError: the manifest itself is damaged.
    """
    manifest = load_manifest(out)
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        faults = list(pool.map(lambda shard: list(_faults(out, shard)), manifest.shards))
    return VerifyReport(
        digest=manifest.digest,
        shards=len(manifest.shards),
        samples=manifest.statistics.samples,
        bytes=manifest.statistics.bytes,
        damaged=tuple(fault for faults_of_shard in faults for fault in faults_of_shard),
    )


def _faults(out: str | Path, shard: ShardEntry) -> Iterator[str]:
    try:
        load_sidecar(out, shard)
    except IntegrityError as exc:
        yield str(exc)

    location = storage.join(out, shard.name)
    try:
        if storage.sha256(location) != shard.sha256:
            yield f"{location} is damaged: its SHA-256 differs from the manifest's"
    except OSError as exc:
        yield f"{location} cannot be read: {exc.strerror or exc}"
