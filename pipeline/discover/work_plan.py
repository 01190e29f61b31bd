"""The work plan: every shard to be built, decided before any of it is built.

A plan is a function of sources, configuration and library versions. Each shard carries a digest of
everything that decides its bytes, so a shard whose digest is unchanged need not be rebuilt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from corrfractal.common.config import digest
from corrfractal.shards.clip import SCHEMA
from corrfractal.shards.manifest import SourceEntry
from pipeline.config import PipelineConfig

from .segments import Segment, group_segments
from .sources import Source


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """The work of one task.

    Attributes:
        name: file name of the shard, ``shard-000000.tar``.
        segments: what is sampled into it, in order.
        digest: SHA-256 (hex) of everything that decides its bytes.
    """

    name: str
    segments: tuple[Segment, ...]
    digest: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The work plan of one build.

    Attributes:
        config: ``PipelineConfig.recipe()``.
        versions: of the libraries that decide bytes, by name.
        shards: one specification per task.
        refused: sources with the same bytes as another source.
    """

    config: dict[str, Any]
    versions: dict[str, str]
    shards: tuple[ShardSpec, ...]
    refused: tuple[SourceEntry, ...]


def make_plan(sources: Sequence[Source], config: PipelineConfig) -> Plan:
    """Cut sources into segments and group the segments into shards.

    Args:
        sources: sorted by URI, each hashed.
        config: decides segments, shards and digests.
    """
    # 1. Keep one source per content; the first URI wins.
    first_with: dict[str, Source] = {}
    kept: list[Source] = []
    refused: list[SourceEntry] = []
    for source in sources:
        twin = first_with.setdefault(source.sha256, source)
        # Empty and unreadable files share a hash without sharing contents.
        if twin is source or not source.bytes:
            kept.append(source)
            continue
        refused.append(
            SourceEntry(
                uri=source.uri,
                sha256=source.sha256,
                outcome="rejected",
                stage="read",
                reason=f"the same bytes as {twin.uri}",
            )
        )

    # 2. Name and seal each group of segments.
    recipe = config.recipe()
    versions = library_versions()
    shards: list[ShardSpec] = []
    for number, segments in enumerate(group_segments(kept, config)):
        facts = [segment.facts() for segment in segments]
        shards.append(
            ShardSpec(
                name=f"shard-{number:06d}.tar",
                segments=segments,
                digest=digest([SCHEMA, recipe, versions, number, facts]),
            )
        )
    return Plan(config=recipe, versions=versions, shards=tuple(shards), refused=tuple(refused))


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decode, scale, quantise and encode, by name."""
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


def plan_text(plan: Plan) -> bytes:
    """A plan as JSON, sealed with its own digest. It holds URIs but no paths of this machine."""
    shards = [
        {
            "name": spec.name,
            "digest": spec.digest,
            "segments": [segment.facts() for segment in spec.segments],
        }
        for spec in plan.shards
    ]
    values = {
        "schema": SCHEMA,
        "config": plan.config,
        "versions": plan.versions,
        "shards": shards,
        "refused": [asdict(entry) for entry in plan.refused],
    }
    sealed = {**values, "digest": digest(values)}
    text = json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False)
    return (text + "\n").encode()


def is_plan(text: bytes) -> bool:
    """Whether ``text`` is a complete plan that this program wrote: its digest fits."""
    try:
        values = json.loads(text)
        return bool(values.pop("digest") == digest(values))
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
