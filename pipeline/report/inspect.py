"""Finished shards for people: label health as text, and a contact sheet as one HTML file that
fetches nothing."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from corrfractal.common import storage
from corrfractal.common.errors import IntegrityError
from corrfractal.common.output_guard import write_page
from corrfractal.shards.clip import Clip, decode_clip, encode_clip, read_members
from corrfractal.shards.manifest import (
    Manifest,
    SampleRef,
    Sidecar,
    SourceEntry,
    load_manifest,
    load_sidecar,
)
from pipeline.label.label_health import Health, clusters, data_set_health, shard_health
from pipeline.label.pseudo_labels import label_statistics

READERS = 8
# Side in pixels of a picture of a card, and how many of a clip's frames it shows
TILE, TILES = 160, 4
VIEWS_SHOWN = 3
SHARDS_SHOWN, LOST_SHOWN = 60, 400  # rows of the tables; a data set may have millions


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What there is to say about a folder of shards.

    Attributes:
        shards: the folder, or its URI.
        manifest: as read.
        samples: where every clip is.
        health: of all labels.
        by_shard: the same for each shard, in order.
        lost: sources that are not, or not wholly, in the shards.
    """

    shards: str
    manifest: Manifest
    samples: tuple[SampleRef, ...]
    health: Health
    by_shard: tuple[Health, ...]
    lost: tuple[SourceEntry, ...]

    @property
    def least_healthy(self) -> tuple[Health, ...]:
        """All shards if they are few, else those of lowest entropy."""
        if len(self.by_shard) <= SHARDS_SHOWN:
            return self.by_shard
        return tuple(sorted(self.by_shard, key=lambda shard: shard.entropy)[:SHARDS_SHOWN])


def inspect(shards: str | Path) -> Inspection:
    """Read the manifest and all sidecars of a folder of shards.

    Raises:
        NotFoundError: no finished shards there.
        IntegrityError: a file is damaged.
    """
    manifest = load_manifest(shards)
    with ThreadPoolExecutor(READERS) as pool:
        sidecars = list(pool.map(lambda shard: load_sidecar(shards, shard), manifest.shards))
    return Inspection(
        shards=str(shards),
        manifest=manifest,
        samples=tuple(_samples(sidecars)),
        health=data_set_health(manifest),
        by_shard=tuple(shard_health(sidecar, clusters(manifest)) for sidecar in sidecars),
        lost=tuple(source for source in manifest.sources if source.outcome != "sampled"),
    )


def lines(found: Inspection) -> Iterator[str]:
    """The report as text."""
    statistics, health = found.manifest.statistics, found.health
    yield (
        f"{statistics.sources} sources = {statistics.sampled} sampled + {statistics.quarantined} "
        f"quarantined + {statistics.rejected} rejected; {health.cuts} shot cuts, "
        f"{health.cuts_per_minute:.1f} a minute; {health.static} static clips left out"
    )
    yield f"{statistics.samples} clips in {len(found.by_shard)} shards, {statistics.bytes / 1e6:.1f} MB"
    yield (
        f"labels: {health.entropy:.2f} bits a pixel of at most "
        f"{np.log2(len(health.occupancy)):.0f}; {health.change_rate:.1%} of them change from frame "
        "to frame"
    )
    yield (
        f"label sets: {health.label_sets}; {health.with_empty:.1%} with an empty cluster, "
        f"{health.dominated:.1%} with one label on over 90 % of the pixels, {health.still:.1%} "
        "with next to no change"
    )
    yield "\npixels by the rank of their label"
    top = max(health.occupancy)
    for rank, share in enumerate(health.occupancy, start=1):
        yield f"{rank:4} {share:6.1%} {'#' * round(40 * share / top)}"
    yield f"\n{'shard':18}{'clips':>6}{'bits':>7}{'change':>8}{'empty':>8}{'domin.':>8}{'still':>8}{'cuts/min':>10}"
    for shard in found.least_healthy:
        yield (
            f"{shard.name.removesuffix('.tar'):18}{shard.clips:6}{shard.entropy:7.2f}{shard.change_rate:8.1%}"
            f"{shard.with_empty:8.1%}{shard.dominated:8.1%}{shard.still:8.1%}{shard.cuts_per_minute:10.1f}"
        )
    if found.lost:
        yield "\nquarantined and rejected"
    for source in found.lost[:LOST_SHOWN]:
        yield f"{source.outcome:12} {source.uri}: {source.stage}: {source.reason}"
    if len(found.lost) > LOST_SHOWN:
        yield f"... and {len(found.lost) - LOST_SHOWN} more, see manifest.json"


def write_sheet(path: Path, found: Inspection, *, clips: int = 24, seed: int = 0) -> None:
    """Write the contact sheet in one atomic step.

    Args:
        path: the HTML file; its folder is made.
        found: the shards.
        clips: how many are shown.
        seed: decides which, out of all shards.

    Raises:
        IntegrityError: a stored clip is damaged.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    chosen = random.Random(seed).sample(range(len(found.samples)), min(clips, len(found.samples)))
    with ThreadPoolExecutor(READERS) as pool:
        cards = list(pool.map(lambda i: _card(found, found.samples[i]), sorted(chosen)))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    page = environment.get_template("inspect.html.j2").render(
        found=found,
        name=PurePosixPath(found.shards).name,
        statistics=found.manifest.statistics,
        health=found.health,
        most_bits=float(np.log2(len(found.health.occupancy))),
        cards=cards,
        seed=seed,
        lost=found.lost[:LOST_SHOWN],
    )
    write_page(path, page)


@dataclass(frozen=True, kw_only=True)
class _Card:
    """A clip on the sheet: ``frames`` and, for each view, label maps as ``data:`` addresses, and
    what its labels are like."""

    source: str
    key: str
    seconds: tuple[float, ...]
    frames: tuple[str, ...]
    views: tuple[tuple[str, ...], ...]
    entropy: float
    change_rate: float
    remarks: tuple[str, ...]


def _card(found: Inspection, sample: SampleRef) -> _Card:
    location = storage.join(found.shards, sample.shard)
    try:
        clip = decode_clip(read_members(storage.read_part(location, sample.offset, sample.length)))
    except IntegrityError as exc:
        raise IntegrityError(
            f"{location}, sample {sample.key}: {exc}. Run `corrfractal verify {found.shards}`"
        ) from exc
    ts = np.unique(np.linspace(0, len(clip.frames) - 1, TILES).round().astype(int)).tolist()
    tiles = _tiles(clip, ts)
    labels = label_statistics(clip.labels)
    empty = sum(number < len(found.health.occupancy) for number in _used(clip))
    remarks = [
        (f"{empty} with empty clusters" if len(clip.labels) > 1 else "an empty cluster")
        if empty
        else "",
        "one label on over 90 %" if labels.dominated else "",
        "still" if labels.still else "",
    ]
    return _Card(
        source=str(clip.meta["source"]),
        key=clip.key,
        seconds=tuple(clip.meta["seconds"][t] for t in ts),
        frames=tuple(_address("jpeg", tiles[f"{clip.key}.f{t:03d}.jpg"]) for t in range(len(ts))),
        views=tuple(
            tuple(_address("png", tiles[f"{clip.key}.v{v}.f{t:03d}.png"]) for t in range(len(ts)))
            for v in range(min(VIEWS_SHOWN, len(clip.labels)))
        ),
        entropy=labels.entropy,
        change_rate=labels.change_rate,
        remarks=tuple(remark for remark in remarks if remark),
    )


def _tiles(clip: Clip, ts: Sequence[int]) -> dict[str, bytes]:
    """A few frames of a clip and their label maps, small, encoded as they are in a shard."""
    frames = [cv2.resize(clip.frames[t], (TILE, TILE), interpolation=cv2.INTER_AREA) for t in ts]
    labels = [
        [cv2.resize(view[t], (TILE, TILE), interpolation=cv2.INTER_NEAREST) for t in ts]
        for view in clip.labels
    ]
    return encode_clip(
        Clip(key=clip.key, frames=np.stack(frames), labels=np.array(labels), meta={})
    )


def _used(clip: Clip) -> list[int]:
    """Number of labels in use, of every view."""
    return [len(np.unique(view)) for view in clip.labels]


def _samples(sidecars: Sequence[Sidecar]) -> Iterator[SampleRef]:
    for sidecar in sidecars:
        for sample in sidecar.samples:
            yield SampleRef(shard=sidecar.name, **vars(sample))


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def to_json(found: Inspection) -> dict[str, Any]:
    """The report as plain values."""
    from dataclasses import asdict

    return {
        "shards": found.shards,
        "digest": found.manifest.digest,
        "statistics": asdict(found.manifest.statistics),
        "health": asdict(found.health),
        "by_shard": [asdict(shard) for shard in found.by_shard],
        "lost": [asdict(source) for source in found.lost],
    }
