"""Description of a folder of shards. The pipeline writes it, training and lineage read it.

    manifest.json           one ``Manifest``; its digest is the identity of the data set
    index/                  columns: a row per shard, clip and source, see ``index.py``
    shard-<16 hex>.tar      clips, see ``clip.py``; named after the sources it is made of
    shard-<16 hex>.json     one ``Sidecar``: the position of each clip in the tar, and the outcome
                            of each source
    urls.txt                names of the tars, one per line, in stored order
    quarantine.jsonl        damaged sources, one JSON object per line

JSON files have the fields of the dataclass of their name. ``digest`` in a sidecar is the SHA-256 of
the canonical JSON of all its other fields, in the manifest of all but the index files, so damage is
detected before any value is used.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter

from corrfractal.common.config import digest
from corrfractal.common.errors import IntegrityError, NotFoundError
from corrfractal.files import storage

from .clip import SCHEMA

MANIFEST = "manifest.json"
EARLIER_MANIFEST = ".manifest.json"  # while the folder is rebuilt
QUARANTINE = "quarantine.jsonl"
URLS = "urls.txt"
QUARANTINE_FIELDS = ("uri", "stage", "reason", "first_bad_frame", "frames_salvaged", "decoder")

Count = Annotated[int, Field(ge=0)]
# Name and hash become parts of paths, and a manifest may come from anywhere: no "../".
SHARD_NAME = r"^shard-[0-9a-f]{16}\.tar$"
SHA256 = r"^[0-9a-f]{64}$"
ShardName = Annotated[str, Field(pattern=SHARD_NAME)]
Sha256 = Annotated[str, Field(pattern=SHA256)]

Document = TypeVar("Document", "Sidecar", "Manifest")


@dataclass(frozen=True, kw_only=True)
class SampleEntry:
    """Position of a clip in its shard.

    Attributes:
        key: common part of the names of its tar members.
        offset, length: bytes of the tar that are exactly its members, headers and padding included.
        frames, views: number of each.
    """

    key: str
    offset: Count
    length: Count
    frames: Count
    views: Count


@dataclass(frozen=True, kw_only=True)
class SampleRef(SampleEntry):
    """Position of a clip in a folder of shards; ``shard`` is the name of the tar."""

    shard: str


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """Outcome of one source; in a sidecar, of the segment of it that the shard contains.

    Attributes:
        uri, sha256: which video; see ``pipeline.discover.sources``.
        outcome: ``"sampled"``; ``"quarantined"``: damaged, clips before the damage are kept;
            ``"rejected"``: intact, but no clip can be sampled, or the same bytes as another source.
        clips: clips in the shard.
        frames, fps: as decoded; 0 if it could not be opened.
        decoder: ``"decord"``, ``"pyav"`` or ``"images"``; ``""`` if it failed before decoding.
        stage: of the failure, ``"read"``, ``"open"``, ``"decode"`` or ``"clips"``; None if sampled.
        reason: in words; None if sampled.
        first_bad_frame: index of the first frame that could not be decoded, if known.
        frames_stored: frames in the shard; for a quarantined source, the salvaged ones.
        segment, segments: index (0 in the index) and number; a short video has one segment.
        cuts: shot cuts that no clip spans.
        static: clips left out because almost nothing moves in them.
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
    """Counts over label maps: integers, so their sum is independent of the order of adding.

    A *label set* is one view of one clip.

    Attributes:
        by_rank: pixels with the most frequent label of their label set, with the second most
            frequent, and so on (at most K values).
        by_used: number of label sets that use one label, that use two, and so on.
        dominated: label sets with over nine tenths of their pixels under one label.
        still: label sets in which fewer than one in a hundred of the compared pixels changed.
        compared: pixels that also exist one stored frame earlier.
        changed: compared pixels whose label differs from that earlier one.
    """

    by_rank: tuple[int, ...] = ()
    by_used: tuple[int, ...] = ()
    dominated: int = 0
    still: int = 0
    compared: int = 0
    changed: int = 0

    def __add__(self, other: LabelStatistics) -> LabelStatistics:
        return LabelStatistics(
            by_rank=_sum_by_position(self.by_rank, other.by_rank),
            by_used=_sum_by_position(self.by_used, other.by_used),
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
        pixels = sum(self.by_rank)
        return tuple(count / pixels for count in self.by_rank) if pixels else ()

    @property
    def entropy(self) -> float:
        """Entropy of ``occupancy`` in bits: 0 for one label, log2 K for K equally frequent ones."""
        return sum(-share * math.log2(share) for share in self.occupancy if share)

    @property
    def change_rate(self) -> float:
        """``changed`` as a share of ``compared``; 0 if there are none."""
        return self.changed / self.compared if self.compared else 0.0


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """Description of one shard.

    Attributes:
        name: file name of the tar.
        spec: digest of the shard specification it was built from.
        sha256, bytes: of the tar.
        samples: its clips, in stored order.
        sources: outcome of each source, or segment of a source, in the shard.
        label_statistics: over all its clips.
        digest: of all other fields.
    """

    name: str
    spec: str
    sha256: str
    bytes: int
    samples: tuple[SampleEntry, ...]
    sources: tuple[SourceEntry, ...]
    label_statistics: LabelStatistics
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard in the index.

    Attributes:
        name: file name of the tar.
        sha256, bytes: of the tar.
        samples: number of clips.
        sidecar: digest of its sidecar.
    """

    name: ShardName
    sha256: Sha256
    bytes: Count
    samples: int
    sidecar: str


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Sums over a data set.

    Attributes:
        samples, frames: number of stored clips, and of their frames.
        bytes: of all tars.
        sources: ``sampled`` + ``quarantined`` + ``rejected``.
        sampled, quarantined, rejected: sources by outcome, as in ``SourceEntry``.
        cuts, static: as in ``SourceEntry``.
        labels: over all clips.
    """

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
class IndexFile:
    """A file of the columnar index: its path below the folder of shards, SHA-256 and rows."""

    name: Annotated[str, Field(pattern=r"^index/[a-z0-9/-]+\.parquet$")]
    sha256: Sha256
    rows: Count


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of a data set; its size is independent of the number of videos.

    Attributes:
        schema: version of the layout, ``clip.SCHEMA``.
        config: configuration of the pipeline as plain values.
        config_digest: of ``config``.
        versions: of the libraries that influence the stored bytes.
        shards_digest: of name, SHA-256 and number of clips of every shard, in stored order.
        sources_digest: of URI, SHA-256 and outcome of every source.
        statistics: sums.
        index: the files of the columnar index, see ``index``.
        digest: identity of the data set, of all fields but ``index``: it follows from what is
            stored, not from how Parquet encodes it.
    """

    schema: int
    config: dict[str, Any]
    config_digest: str
    versions: dict[str, str]
    shards_digest: Sha256
    sources_digest: Sha256
    statistics: Statistics
    index: tuple[IndexFile, ...] = ()
    digest: str = ""


def load_manifest(shards: str | Path) -> Manifest:
    """Read the manifest of a folder of shards.

    Args:
        shards: the folder, or its ``manifest.json``; local path or URI.

    Raises:
        NotFoundError: there is none.
        IntegrityError: it is damaged, or has another schema.
    """
    # Lineage keeps a copy of the manifest without its folder, so the file itself may be given.
    location = str(shards) if str(shards).endswith(".json") else storage.join(shards, MANIFEST)
    if storage.kind(location) != "file":
        raise NotFoundError(
            f"no finished shards at {shards}: run `corrfractal precompute` first, to its end"
        )
    contents = storage.read(location)
    try:
        schema = int(json.loads(contents)["schema"])
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise IntegrityError(f"{location} is damaged: run `corrfractal precompute` again") from exc
    if schema != SCHEMA:
        raise IntegrityError(
            f"{location} has schema {schema}, this version reads {SCHEMA}: run `corrfractal "
            "precompute` again, which reuses the clips of unchanged videos"
        )
    return _unsealed(contents, location, Manifest)


def load_sidecar(shards: str | Path, shard: ShardEntry) -> Sidecar:
    """Read the sidecar of a shard of the manifest.

    Raises:
        IntegrityError: missing, damaged, or not the one that the manifest names.
    """
    location = storage.join(shards, sidecar_name(shard.name))
    sidecar = read_sealed(location, Sidecar)
    # An intact sidecar may still belong to another build of the folder.
    if sidecar.digest != shard.sidecar:
        raise IntegrityError(
            f"{location} is not the one that {MANIFEST} names: run `corrfractal precompute` again"
        )
    return sidecar


def sidecar_name(shard: str) -> str:
    """``shard-0123456789abcdef.tar`` -> ``shard-0123456789abcdef.json``."""
    return shard.removesuffix(".tar") + ".json"


def seal(document: Document) -> Document:
    """The document with its ``digest`` set."""
    values = dataclasses.asdict(document)
    return dataclasses.replace(document, digest=digest(_identity(values)))


def to_text(document: Document) -> str:
    """JSON text of a sealed document, identical for equal content."""
    values = dataclasses.asdict(document)
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_sealed(location: str | Path, cls: type[Document]) -> Document:
    """Read and validate a document that ``to_text`` wrote.

    Raises:
        IntegrityError: missing, not JSON, a field of the wrong type or range, or another digest.
    """
    try:
        contents = storage.read(location)
    except FileNotFoundError as exc:
        raise IntegrityError(f"{location} is missing: run `corrfractal precompute` again") from exc
    return _unsealed(contents, location, cls)


def _unsealed(contents: bytes, location: str | Path, cls: type[Document]) -> Document:
    try:
        values = json.loads(contents)
        document: Document = _adapter(cls).validate_python(values)  # type: ignore[arg-type]
    except (ValueError, RecursionError) as exc:
        raise IntegrityError(f"{location} is damaged: run `corrfractal precompute` again") from exc

    # The digest covers the values as stored, unknown fields included.
    if digest(_identity(values)) != document.digest:
        raise IntegrityError(
            f"{location} is damaged, its digest does not fit: run `corrfractal precompute` again"
        )
    return document


@functools.cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    """The validator of a class; compiling one takes as long as reading ten sidecars."""
    return TypeAdapter(cls)


def _sum_by_position(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip_longest(left, right, fillvalue=0))


def _identity(values: dict[str, Any]) -> dict[str, Any]:
    """What the digest of a document covers."""
    return {name: value for name, value in values.items() if name not in ("digest", "index")}
