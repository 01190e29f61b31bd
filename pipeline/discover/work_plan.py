"""The work, decided before any of it is done: which shard is made of which segments.

A plan follows from the listing, the configuration and the versions of libraries alone. Contents are
known only to the tasks that read them; what they found in earlier builds is in ``store.state``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corrfractal.common.config import digest
from corrfractal.shards.clip import SCHEMA
from corrfractal.shards.manifest import SourceEntry
from pipeline.config import PipelineConfig

from .lazy_sequence import LazySequence
from .segments import Segment, ShardGroup, count_segments, group_segments, long_rows
from .source_table import PackedTexts, Source, SourceTable, as_table


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSpec:
    """The work of one task.

    Attributes:
        name: of the shard; follows from the names of its segments.
        segments: what it is made of.
        digest: of everything that decides its bytes, but for the contents of its sources.
    """

    name: str
    segments: tuple[Segment, ...]
    digest: str


class ShardSpecs(LazySequence[ShardSpec]):
    """The specifications of a plan; those of a million sources would take 350 MB as objects.

    Args:
        sources, config: of the plan.
        groups: what each shard is made of.
        names, digests: of each.

    Attributes:
        names, digests: of each.
        counts: int32, number of segments of the long video of a shard; 1 if it has short videos.
    """

    def __init__(
        self,
        sources: SourceTable,
        config: PipelineConfig,
        groups: Sequence[ShardGroup],
        names: PackedTexts,
        digests: PackedTexts,
    ) -> None:
        self.names = names
        self.counts = np.array([group.count for group in groups], np.int32)
        self.digests = digests
        self._numbers = np.array([group.number for group in groups], np.int32)
        self._ends = np.cumsum([len(group.rows) for group in groups], dtype=np.int64)
        self._rows = np.array([row for group in groups for row in group.rows], np.int32)
        self._sources = sources
        self._config = config

    def __len__(self) -> int:
        return len(self.names)

    def item(self, row: int) -> ShardSpec:
        """One of them."""
        group = ShardGroup(self.rows(row), int(self._numbers[row]), int(self.counts[row]))
        return ShardSpec(
            name=self.names[row],
            segments=group.segments(self._sources, self._config),
            digest=self.digests[row],
        )

    def rows(self, number: int) -> list[int]:
        """Positions of the sources of a shard."""
        start = self._ends[number - 1] if number else 0
        return self._rows[start : self._ends[number]].tolist()

    def uris(self, number: int) -> list[str]:
        """Of the sources of a shard."""
        return [self._sources.uris[row] for row in self.rows(number)]

    def uris_and_faults(self, number: int) -> list[tuple[str, str]]:
        """Of the sources of a shard."""
        faults = self._sources.faults
        return [(self._sources.uris[row], faults.get(row, "")) for row in self.rows(number)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All the work.

    Attributes:
        config: ``PipelineConfig.recipe()``.
        versions: of the libraries that decide bytes.
        shards: in stored order.
        refused: sources with the same bytes as another one.
    """

    config: dict[str, Any]
    versions: dict[str, str]
    shards: ShardSpecs
    refused: tuple[SourceEntry, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What was read of a source, in this build or an earlier one.

    Attributes:
        sha256: of its content; ``""`` if only its length was read.
        seconds: its length by the header, 0 if that does not say; None if it was not read.
    """

    sha256: str = ""
    seconds: float | None = None


def make_plan(
    sources: Sequence[Source], config: PipelineConfig, known: Mapping[str, Known]
) -> Plan:
    """Plan the shards of a listing.

    Args:
        sources: sorted by URI.
        config: how.
        known: by URI; must hold the length of every source that ``segments.needs_length`` names,
            and the content of every source that ``same_size`` names.
    """
    table = as_table(sources)
    refused = _refuse_copies(table, known)
    groups = list(group_segments(table, _counts(table, known, refused, config), config))
    recipe = config.recipe()
    versions = library_versions(config)
    base = digest([SCHEMA, recipe, versions])
    names = PackedTexts()
    digests = PackedTexts()
    for group in groups:
        segments = group.segments(table, config)
        text = "\n".join(segment.name for segment in segments)
        names.append(f"shard-{hashlib.sha256(text.encode()).hexdigest()[:16]}.tar")
        digests.append(digest([base, [segment.identity() for segment in segments]]))
    return Plan(
        config=recipe,
        versions=versions,
        shards=ShardSpecs(table, config, groups, names, digests),
        refused=tuple(refused),
    )


def _counts(
    sources: SourceTable,
    known: Mapping[str, Known],
    refused: Sequence[SourceEntry],
    config: PipelineConfig,
) -> list[int]:
    """Number of segments of each source; 0 for copies of others."""
    counts = [1] * len(sources)
    for row in np.flatnonzero(sources.files).tolist():
        counts[row] = count_segments(sources[row], 0.0, config)
    # A build with shorter segments may have read the header of a video that this one does not
    # look at: what is known must not decide more than what a first build reads.
    for row in long_rows(sources, config):
        seconds = known.get(sources.uris[row], Known()).seconds or 0.0
        counts[row] = count_segments(sources[row], seconds, config)
    copies = {entry.uri for entry in refused}
    return [0 if uri in copies else count for uri, count in zip(sources.uris, counts, strict=True)]


def same_size(sources: SourceTable) -> Iterator[list[int]]:
    """Positions of sources of exactly equal size, the only ones that can be copies of each other,
    in order of their sizes."""
    sizes = sources.bytes
    files = sources.files
    order = np.lexsort((files, sizes))
    is_new = (np.diff(sizes[order]) != 0) | (np.diff(files[order]) != 0)
    edges = np.concatenate([[0], np.flatnonzero(is_new) + 1, [len(order)]])
    for run in np.flatnonzero(np.diff(edges) > 1).tolist():
        rows = order[edges[run] : edges[run + 1]].tolist()
        readable = [row for row in rows if sizes[row] and row not in sources.faults]
        if len(readable) > 1:
            yield readable


def _refuse_copies(sources: SourceTable, known: Mapping[str, Known]) -> list[SourceEntry]:
    """An entry for every source whose bytes an earlier one, by URI, has too."""
    refused = []
    for rows in same_size(sources):
        first: dict[str, str] = {}
        for uri in (sources.uris[row] for row in rows):
            sha256 = known[uri].sha256 if uri in known else ""
            twin = first.setdefault(sha256, uri) if sha256 else uri
            if twin != uri:
                refused.append(
                    SourceEntry(
                        uri=uri,
                        sha256=sha256,
                        outcome="rejected",
                        stage="read",
                        reason=f"the same bytes as {twin}",
                    )
                )
    return sorted(refused, key=lambda entry: entry.uri)


def library_versions(config: PipelineConfig) -> dict[str, str]:
    """Versions of everything that decodes, scales, quantises and encodes."""
    import av
    import cv2
    import decord
    import faiss
    import numba
    import numpy
    import PIL
    import simplejpeg

    modules = {
        "av": av,
        "decord": decord,
        "faiss": faiss,
        "numba": numba,
        "numpy": numpy,
        "opencv": cv2,
        "pillow": PIL,
        "simplejpeg": simplejpeg,
    }
    if config.device != "cpu" or config.quantization.kmeans == "torch":
        import torch

        modules["torch"] = torch
    return {name: str(module.__version__) for name, module in modules.items()}
