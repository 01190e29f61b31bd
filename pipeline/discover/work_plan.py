"""The work, decided before any of it is done: which shard is made of which segments.

A plan follows from the listing, the configuration and the versions of libraries alone. Contents are
known only to the tasks that read them; what they found in earlier builds is in ``store.state``.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corrfractal.common.config import digest
from corrfractal.shards.clip import SCHEMA
from corrfractal.shards.manifest import SourceEntry
from pipeline.config import PipelineConfig

from .segments import Segment, count_segments, group_segments, needs_length
from .sources import Source


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
    shards: tuple[ShardSpec, ...]
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
    nothing = Known()
    refused = _refuse_copies(sources, known)
    copies = {entry.uri for entry in refused}
    kept = [source for source in sources if source.uri not in copies]
    counts = [_count(source, known.get(source.uri, nothing), config) for source in kept]
    recipe = config.recipe()
    versions = library_versions(config)
    base = digest([SCHEMA, recipe, versions])
    specs = []
    for segments in group_segments(kept, counts, config):
        names = "\n".join(segment.name for segment in segments)
        identity = [base, [segment.identity() for segment in segments]]
        name = hashlib.sha256(names.encode()).hexdigest()[:16]
        specs.append(
            ShardSpec(name=f"shard-{name}.tar", segments=segments, digest=digest(identity))
        )
    return Plan(config=recipe, versions=versions, shards=tuple(specs), refused=tuple(refused))


def _count(source: Source, known: Known, config: PipelineConfig) -> int:
    # A build with shorter segments may have read the header of a video that this one does not
    # look at: what is known must not decide more than what a first build reads.
    seconds = known.seconds if needs_length(source, config) else None
    return count_segments(source, seconds or 0.0, config)


def same_size(sources: Sequence[Source]) -> list[list[Source]]:
    """Groups of sources of exactly equal size, the only ones that can be copies of each other."""
    by_size = defaultdict(list)
    for source in sources:
        if source.bytes and not source.fault:
            by_size[source.bytes, source.files].append(source)
    return [members for members in by_size.values() if len(members) > 1]


def _refuse_copies(sources: Sequence[Source], known: Mapping[str, Known]) -> list[SourceEntry]:
    """An entry for every source whose bytes an earlier one, by URI, has too."""
    refused = []
    for members in same_size(sources):
        first: dict[str, Source] = {}
        for source in members:
            sha256 = known[source.uri].sha256 if source.uri in known else ""
            twin = first.setdefault(sha256, source) if sha256 else source
            if twin is not source:
                refused.append(
                    SourceEntry(
                        uri=source.uri,
                        sha256=sha256,
                        outcome="rejected",
                        stage="read",
                        reason=f"the same bytes as {twin.uri}",
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
