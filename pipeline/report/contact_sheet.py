"""The report of ``corrfractal inspect --html``: label health, and a contact sheet of frames beside
their label maps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from corrfractal.common.errors import IntegrityError
from corrfractal.common.report_page import (
    Card,
    Columns,
    Figure,
    Number,
    Picture,
    Section,
    Stack,
    Table,
    Tag,
    write_report,
)
from corrfractal.files import storage
from corrfractal.shards.clip import Clip, decode_clip, encode_clip, read_members
from corrfractal.shards.manifest import SampleRef, SourceEntry
from pipeline.label.label_health import Health
from pipeline.label.pseudo_labels import label_statistics

from .inspection import LOST_SHOWN, READERS, REASONS_SHOWN, Inspection

# Height and width of a small picture, pixels
TILE = 160
# Frames of a clip that are shown
TILES = 4
VIEWS_SHOWN = 3
# Share of unhealthy label sets above which a shard's figure is highlighted
WARN_SHARE = 0.1


def write_sheet(path: Path, found: Inspection, *, clips: int = 24, seed: int = 0) -> None:
    """Write the report; atomic.

    Args:
        path: the HTML file; its folder is created if missing.
        found: what to report.
        clips: number of clips on the contact sheet.
        seed: of the random choice of clips among all shards.

    Raises:
        IntegrityError: a stored clip is damaged.
    """
    statistics = found.manifest.statistics
    count = statistics.samples
    chosen = sorted(random.Random(seed).sample(range(count), min(clips, count)))
    with ThreadPoolExecutor(READERS) as pool:
        cards = list(pool.map(lambda ref: _card(found, ref), found.index.clip_refs(chosen)))

    lead = (
        f"{statistics.samples} clips of {statistics.frames} frames in {len(found.by_shard)} "
        f"shards, {statistics.bytes / 1e6:.1f} MB. Data set {found.manifest.digest[:16]}."
    )
    sections = [
        _sources(found),
        _labels(found.health),
        _ranks(found.health),
        Section(
            title=f"{len(cards)} of {statistics.samples} clips",
            text=(
                "Frames above, label maps below; within a clip a colour is always the same label. "
                f"Drawn from all shards with seed {seed}."
            ),
            cards=tuple(cards),
        ),
        _shards(found),
        _reasons(found),
        _lost(found),
    ]
    name = PurePosixPath(found.shards).name
    write_report(path, f"{name}: frames and pseudo-labels", sections, lead=lead, wide=True)


def _sources(found: Inspection) -> Section:
    statistics = found.manifest.statistics
    health = found.health

    def outcome(label: str, count: int, note: str = "") -> Figure:
        return Figure(label=label, value=str(count), note=note, share=count / statistics.sources)

    return Section(
        title="Sources",
        figures=(
            outcome("videos sampled", statistics.sampled, f"of {statistics.sources}"),
            outcome("quarantined (damaged)", statistics.quarantined),
            outcome("rejected (no clip fits)", statistics.rejected),
            Figure(
                label="shot cuts",
                value=str(health.cuts),
                note=f"{health.cuts_per_minute:.1f} a minute",
            ),
            Figure(
                label="static clips left out",
                value=str(health.static),
                note=f"{100 * health.static_rate:.1f} %",
                share=health.static_rate,
            ),
        ),
    )


def _labels(health: Health) -> Section:
    most_bits = float(np.log2(len(health.occupancy)))

    def share(label: str, value: float, note: str = "%") -> Figure:
        return Figure(label=label, value=f"{100 * value:.1f}", note=note, share=value)

    entropy = Figure(
        label="entropy",
        value=f"{health.entropy:.2f}",
        note=f"bits of {most_bits:.3g}",
        share=health.entropy / most_bits,
    )
    return Section(
        title="Labels",
        text=(
            "A label set is one view of one clip. A label map that has collapsed holds few bits; "
            "one that never changes, or changes everywhere, gives no correspondence to learn."
        ),
        figures=(
            entropy,
            share("change per frame", health.change_rate),
            share("with empty clusters", health.with_empty, f"% of {health.label_sets}"),
            share("one label on over 90 %", health.dominated),
            share("still: under 1 % change", health.still),
        ),
    )


def _ranks(health: Health) -> Section:
    return Section(
        title="Pixels by the rank of their label",
        text=(
            "Per cent of the pixels with the most frequent label of their label set, the second, "
            f"and so on; equal shares would be {100 / len(health.occupancy):.1f} each."
        ),
        columns=Columns(shares=health.occupancy),
    )


def _shards(found: Inspection) -> Section:
    def row(shard: Health) -> tuple[str | Number | Stack, ...]:
        unhealthy = (shard.with_empty, shard.dominated, shard.still)
        return (
            shard.name,
            Number(text=str(shard.clips)),
            Stack(shares=shard.occupancy),
            Number(text=f"{shard.entropy:.2f}"),
            Number(text=f"{100 * shard.change_rate:.1f}"),
            *(Number(text=f"{100 * value:.1f}", warn=value > WARN_SHARE) for value in unhealthy),
            Number(text=str(shard.cuts)),
            Number(text=f"{shard.cuts_per_minute:.1f}"),
            Number(text=str(shard.static)),
        )

    shown = found.least_healthy
    count = len(found.by_shard)
    header = (
        "shard", "clips", "pixels by rank", "bits", "change %", "empty %", "one label %",
        "still %", "cuts", "a minute", "left out",
    )  # fmt: skip
    return Section(
        title="Shards",
        text=f"The {len(shown)} of lowest entropy of {count}." if len(shown) < count else "",
        table=Table(header=header, rows=tuple(row(shard) for shard in shown)),
    )


def _reasons(found: Inspection) -> Section:
    """Numbers of sources by the reason why they are lost, and by decoder."""
    counts = found.counts
    rows: list[tuple[str | Number, ...]] = [
        (reason.outcome, reason.stage or "", reason.reason or "", Number(text=str(reason.sources)))
        for reason in counts.by_reason[:REASONS_SHOWN]
    ]
    decoders = ", ".join(f"{name or 'none'} {count}" for name, count in counts.by_decoder.items())
    return Section(
        title="Reasons and decoders",
        text=f"Sources by decoder: {decoders}.",
        table=Table(header=("outcome", "stage", "reason", "sources"), rows=tuple(rows)),
    )


def _lost(found: Inspection) -> Section:
    title = "Quarantined and rejected"
    if not found.lost:
        return Section(title=title, text="None: every source was read to its end and gave clips.")

    def row(source: SourceEntry) -> tuple[str | Number | Tag, ...]:
        first_bad = "" if source.first_bad_frame is None else str(source.first_bad_frame)
        return (
            source.uri,
            Tag(text=source.outcome, warn=source.outcome == "quarantined"),
            source.stage or "",
            source.reason or "",
            Number(text=first_bad),
            Number(text=str(source.frames_stored)),
            source.decoder or "",
        )

    statistics = found.manifest.statistics
    shown = found.lost[:LOST_SHOWN]
    text = (
        f"{statistics.sources} sources = {statistics.sampled} sampled + {statistics.quarantined} "
        f"quarantined + {statistics.rejected} rejected. The clips before the damage of a "
        "quarantined video are kept."
    )
    if len(shown) < len(found.lost):
        text += f" The first {len(shown)}; all are in index/sources.parquet."
    header = (
        "source", "outcome", "stage", "reason", "first bad frame", "frames kept", "decoder"
    )  # fmt: skip
    return Section(
        title=title,
        text=text,
        table=Table(header=header, rows=tuple(row(source) for source in shown)),
    )


def _card(found: Inspection, sample: SampleRef) -> Card:
    """A clip on the contact sheet: a row of frames, and a row of label maps per view."""
    location = storage.join(found.shards, sample.shard)
    try:
        stored = storage.read_part(location, sample.offset, sample.length)
        clip = decode_clip(read_members(stored))
    except IntegrityError as exc:
        raise IntegrityError(
            f"{location}, clip at byte {sample.offset}: {exc}. Run `corrfractal verify "
            f"{found.shards}`"
        ) from exc

    # Frames at equal distances, from the first to the last.
    times = np.unique(np.linspace(0, len(clip.frames) - 1, TILES).round().astype(int)).tolist()
    tiles = _tiles(clip, times)
    seconds = [clip.meta["seconds"][time] for time in times]
    frames = [
        Picture(data=tiles[f"{clip.key}.f{number:03d}.jpg"], caption=f"frame at {second} s")
        for number, second in enumerate(seconds)
    ]
    rows = [tuple(frames)]
    for view in range(min(VIEWS_SHOWN, len(clip.labels))):
        names = [f"{clip.key}.v{view}.f{number:03d}.png" for number in range(len(times))]
        rows.append(tuple(Picture(data=tiles[name], caption="label map") for name in names))

    labels = label_statistics(clip.labels)
    return Card(
        rows=tuple(rows),
        title=str(clip.meta["source"]),
        details=(
            f"{seconds[0]:.2f}–{seconds[-1]:.2f} s",
            f"{labels.entropy:.2f} bits",
            f"{100 * labels.change_rate:.1f} % change",
        ),
        tags=tuple(Tag(text=text, warn=True) for text in _remarks(clip, found)),
    )


def _remarks(clip: Clip, found: Inspection) -> list[str]:
    """What is unhealthy about the labels of a clip."""
    labels = label_statistics(clip.labels)
    cluster_count = len(found.health.occupancy)
    empty = sum(len(np.unique(view)) < cluster_count for view in clip.labels)
    remarks = []
    if empty and len(clip.labels) > 1:
        remarks.append(f"{empty} with empty clusters")
    elif empty:
        remarks.append("an empty cluster")
    if labels.dominated:
        remarks.append("one label on over 90 %")
    if labels.still:
        remarks.append("still")
    return remarks


def _tiles(clip: Clip, times: Sequence[int]) -> dict[str, bytes]:
    """Some frames of a clip and their label maps, small, encoded and named as in a shard."""
    size = (TILE, TILE)
    frames = [cv2.resize(clip.frames[time], size, interpolation=cv2.INTER_AREA) for time in times]
    labels = [
        [cv2.resize(view[time], size, interpolation=cv2.INTER_NEAREST) for time in times]
        for view in clip.labels
    ]
    small = Clip(key=clip.key, frames=np.stack(frames), labels=np.array(labels), meta={})
    return encode_clip(small)
