"""What a folder of shards says about itself. The pipeline writes it, training and lineage read it.

    manifest.json        one ``Manifest``; its digest is the identity of the data set
    shard-000000.tar     clips, see ``sample.py``
    shard-000000.json    one ``Sidecar``: the place of each sample in the tar, and what became of each source
    quarantine.jsonl     the sources that are damaged, one a line

Every file is plain JSON with the fields of the dataclass of its name. ``digest`` in a sidecar and
in the manifest is the SHA-256 of the canonical JSON of all its other fields, so a damaged file is
noticed before it is believed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, TypeVar

from corrfractal.common import storage
from corrfractal.common.config import digest
from corrfractal.common.errors import IntegrityError, NotFoundError

from .clip import SCHEMA

MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"
SHARD_NAME, SHA256 = re.compile(r"shard-\d{6,}\.tar"), re.compile("[0-9a-f]{64}")
QUARANTINE_FIELDS = ("uri", "stage", "reason", "first_bad_frame", "frames_salvaged", "decoder")

T = TypeVar("T", "Sidecar", "Manifest")


@dataclass(frozen=True, kw_only=True)
class SampleEntry:
    """The place of a clip in its shard: ``length`` bytes from ``offset`` on are its tar members,
    whole."""

    key: str
    offset: int
    length: int
    frames: int
    views: int

    def __post_init__(self) -> None:
        if min(self.offset, self.length, self.frames, self.views) < 0:
            raise ValueError(f"the place of a clip is not negative: {self}")


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """What became of one source; in a sidecar, of that segment of it which the shard holds.

    Attributes:
        uri, sha256: which video; see ``pipeline.discover.sources``.
        outcome: ``"sampled"``; ``"quarantined"``: damaged, clips before the damage are kept;
            ``"rejected"``: whole, but nothing to sample in it, or the same bytes as another source.
        clips: clips in the shard.
        frames, fps: as decoded; 0 where it could not be opened.
        decoder: ``"decord"``, ``"pyav"`` or ``"images"``; ``""`` where none was reached.
        stage: of the failure, ``"read"``, ``"open"``, ``"decode"`` or ``"clips"``; None if sampled.
        reason: in words; None if sampled.
        first_bad_frame: index of the first frame that could not be had, where known.
        frames_stored: frames in the shard; of a quarantined source these are what was salvaged.
        segment, segments: which of how many segments; a short video has one. 0 and their number in
            the manifest.
        cuts: shot cuts that no clip spans.
        static: clips left out because next to nothing moves in them.
    """

    uri: str
    sha256: str
    outcome: Literal["sampled", "quarantined", "rejected"]
    clips: int = 0
    frames: int = 0
    fps: float = 0.0
    decoder: str = ""
    stage: str | None = None
    reason: str | None = None
    first_bad_frame: int | None = None
    frames_stored: int = 0
    segment: int = 0
    segments: int = 1
    cuts: int = 0
    static: int = 0


@dataclass(frozen=True, kw_only=True)
class LabelStatistics:
    """Counts over label maps, exact and so the same in any order of adding. A *label set* is one
    view of one clip.

    Attributes:
        by_rank: pixels under the most frequent label of their label set, under the second, and so
            on (K at most).
        by_used: label sets that use one label, those that use two, and so on.
        dominated: label sets with over nine tenths of their pixels under one label.
        still: label sets in which fewer than one in a hundred of the compared pixels changed.
        compared: pixels that have a pixel at their place one stored frame earlier.
        changed: those of them whose label differs from it.
    """

    by_rank: tuple[int, ...] = ()
    by_used: tuple[int, ...] = ()
    dominated: int = 0
    still: int = 0
    compared: int = 0
    changed: int = 0

    def __add__(self, other: LabelStatistics) -> LabelStatistics:
        return LabelStatistics(
            by_rank=_added(self.by_rank, other.by_rank),
            by_used=_added(self.by_used, other.by_used),
            dominated=self.dominated + other.dominated,
            still=self.still + other.still,
            compared=self.compared + other.compared,
            changed=self.changed + other.changed,
        )

    @property
    def label_sets(self) -> int:
        """Number of label sets."""
        return sum(self.by_used)

    @property
    def occupancy(self) -> tuple[float, ...]:
        """Shares of the pixels by rank; empty without pixels."""
        return (
            tuple(count / sum(self.by_rank) for count in self.by_rank) if any(self.by_rank) else ()
        )

    @property
    def entropy(self) -> float:
        """Of ``occupancy``, in bits: 0 if all pixels have one label, log2 K if all labels are
        equally frequent."""
        return sum(-share * math.log2(share) for share in self.occupancy if share)

    @property
    def change_rate(self) -> float:
        """``changed`` as a share of ``compared``; 0 if there are none."""
        return self.changed / self.compared if self.compared else 0.0


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """One shard. ``sha256`` and ``bytes`` are the tar's; ``spec`` is the digest of what it was made
    from."""

    name: str
    spec: str
    sha256: str
    bytes: int
    samples: tuple[SampleEntry, ...]
    sources: tuple[SourceEntry, ...]
    label_statistics: LabelStatistics
    digest: str = ""

    @property
    def rejected(self) -> tuple[SourceEntry, ...]:
        """Sources that are not, or not wholly, in the shard, with the reasons."""
        return tuple(source for source in self.sources if source.outcome != "sampled")


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard in the manifest; ``sidecar`` is the sidecar's digest, ``samples`` their number."""

    name: str
    sha256: str
    bytes: int
    samples: int
    sidecar: str

    def __post_init__(self) -> None:
        """Name and hash become parts of paths, wherever a manifest comes from."""
        if (
            not SHARD_NAME.fullmatch(self.name)
            or not SHA256.fullmatch(self.sha256)
            or self.bytes < 0
        ):
            raise ValueError(f"no shard: {self.name!r}, {self.sha256!r}, {self.bytes} bytes")


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Sums over the data set. ``sources`` = ``sampled`` + ``quarantined`` + ``rejected``; ``cuts`` and ``static`` as in
    ``SourceEntry``."""

    samples: int
    frames: int
    bytes: int
    sources: int
    sampled: int
    quarantined: int
    rejected: int
    cuts: int
    static: int
    labels: LabelStatistics


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A data set. ``config`` is the pipeline's configuration as plain values, ``versions`` what
    else decides bytes."""

    schema: int
    config: dict[str, Any]
    config_digest: str
    versions: dict[str, str]
    shards: tuple[ShardEntry, ...]
    sources: tuple[SourceEntry, ...]
    statistics: Statistics
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class SampleRef:
    """A clip and where its bytes are: ``length`` bytes from ``offset`` on in the file ``shard`` of
    the folder."""

    shard: str
    key: str
    offset: int
    length: int
    frames: int
    views: int


def load_manifest(shards: str | Path) -> Manifest:
    """Read the manifest of a folder of shards (the folder, or its ``manifest.json``), local or at a
    URI.

    Raises:
        NotFoundError: there is none.
        IntegrityError: it is damaged, or of another schema.
    """
    location = str(shards) if str(shards).endswith(".json") else storage.join(shards, MANIFEST)
    if storage.kind(location) != "file":
        raise NotFoundError(
            f"no finished shards at {shards}: run `corrfractal precompute` first, to its end"
        )
    manifest = read_sealed(location, Manifest)
    if manifest.schema != SCHEMA:
        raise IntegrityError(
            f"{location} has schema {manifest.schema}, this version reads {SCHEMA}: run "
            "`corrfractal precompute` again"
        )
    return manifest


def load_sidecar(shards: str | Path, shard: ShardEntry) -> Sidecar:
    """Read the sidecar of a shard of the manifest.

    Raises:
        IntegrityError: missing, damaged, or not the one that the manifest names.
    """
    location = storage.join(shards, sidecar_name(shard.name))
    sidecar = read_sealed(location, Sidecar)
    if sidecar.digest != shard.sidecar:
        raise IntegrityError(
            f"{location} is not the one that {MANIFEST} names: run `corrfractal precompute` again"
        )
    return sidecar


def sample_index(shards: str | Path, manifest: Manifest) -> list[SampleRef]:
    """All clips in the order of shards and of their place in them.

    Raises:
        IntegrityError: a sidecar is missing or damaged.
    """
    return [
        SampleRef(shard=shard.name, **dataclasses.asdict(sample))
        for shard in manifest.shards
        for sample in load_sidecar(shards, shard).samples
    ]


def sidecar_name(shard: str) -> str:
    """``shard-000000.tar`` -> ``shard-000000.json``."""
    return shard.removesuffix(".tar") + ".json"


def seal(document: T) -> T:
    """The document with its digest."""
    return dataclasses.replace(document, digest=digest(_unsealed(dataclasses.asdict(document))))


def to_text(document: T) -> str:
    """JSON text of a sealed document, the same for the same contents."""
    return (
        json.dumps(dataclasses.asdict(document), indent=1, sort_keys=True, ensure_ascii=False)
        + "\n"
    )


def read_sealed(location: str | Path, cls: type[T]) -> T:
    """Read a document back.

    Raises:
        IntegrityError: missing, not JSON, or its digest does not fit.
    """
    from pydantic import TypeAdapter, ValidationError  # imported late: --help stays fast

    try:
        values = json.loads(storage.read(location))
        document = TypeAdapter(cls).validate_python(values)
    except FileNotFoundError as exc:
        raise IntegrityError(f"{location} is missing: run `corrfractal precompute` again") from exc
    except (ValueError, ValidationError, RecursionError) as exc:
        raise IntegrityError(f"{location} is damaged: run `corrfractal precompute` again") from exc
    if digest(_unsealed(values)) != document.digest:
        raise IntegrityError(
            f"{location} is damaged, its digest does not fit: run `corrfractal precompute` again"
        )
    return document


def _added(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip_longest(a, b, fillvalue=0))


def _unsealed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "digest"}
