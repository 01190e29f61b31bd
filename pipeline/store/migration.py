"""Folders of schema 3: fixed groups of videos, everything in one manifest.

Their clips are stored in the same way, so a build of this version takes over the clips of unchanged
videos instead of decoding them again. Schema 3 did not record every version that decides bytes;
those that it recorded must be equal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from corrfractal.common.console import say
from corrfractal.common.errors import IntegrityError
from corrfractal.files import storage
from corrfractal.shards.manifest import EARLIER_MANIFEST, MANIFEST, Sidecar, read_sealed
from pipeline.discover.work_plan import Plan

EARLIER_SCHEMA = 3
# Names of this version have 16 hex digits, which can all be decimal ones.
SIDECAR = r"shard-\d{6,15}\.json"
THREADS = 16


def earlier_layout(out: str, plan: Plan, facts: Mapping[str, tuple[int, str]]) -> dict[str, str]:
    """Name of the shard that holds the clips of a segment, by name of the segment; empty where the
    folder has no shards of schema 3, or of another configuration or other versions."""
    sidecars = [name for name in facts if re.fullmatch(SIDECAR, name)]
    if not sidecars:
        return {}
    if not _is_same_recipe(out, plan, facts):
        say(
            f"{out} has schema {EARLIER_SCHEMA}, of another configuration or other library "
            "versions: all its shards are built again"
        )
        return {}
    say(
        f"{out} has schema {EARLIER_SCHEMA}: clips of unchanged videos are taken over without "
        "decoding, and its files are replaced"
    )
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda name: _segments(storage.join(out, name)), sorted(sidecars))
    shards: dict[str, str] = {}
    for name, segments in zip(sorted(sidecars), found, strict=True):
        shards |= dict.fromkeys(segments, name.removesuffix(".json") + ".tar")
    return shards


def _is_same_recipe(out: str, plan: Plan, facts: Mapping[str, tuple[int, str]]) -> bool:
    # A build of this version that was killed has renamed the manifest. The work plan of a build of
    # the earlier version that was killed holds the same fields.
    for name in (MANIFEST, EARLIER_MANIFEST, "plan.json"):
        if name not in facts:
            continue
        try:
            values = json.loads(storage.read(storage.join(out, name)))
            versions = values["versions"]
            same_versions = all(plan.versions.get(key) == versions[key] for key in versions)
            if values["schema"] == EARLIER_SCHEMA:
                return bool(values["config"] == plan.config and same_versions)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return False


def _segments(location: str) -> list[str]:
    """Names of the segments whose clips a shard holds."""
    try:
        sidecar = read_sealed(location, Sidecar)
    except IntegrityError:
        return []
    return [f"{entry.uri}#{entry.segment}" for entry in sidecar.sources]
