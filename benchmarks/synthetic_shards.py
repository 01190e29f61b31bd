"""Folders of shards with the numbers of clips that one asks for: a few real clips, repeated under
many keys, with the index and manifest that the product writes and reads."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corrfractal.common.config import digest
from corrfractal.files import storage
from corrfractal.shards.clip import SCHEMA, Clip, encode_clip
from corrfractal.shards.index import clip_rows, shard_rows, source_rows, write_index
from corrfractal.shards.manifest import (
    MANIFEST,
    LabelStatistics,
    Manifest,
    SampleEntry,
    Sidecar,
    Statistics,
    seal,
    to_text,
)
from pipeline.store.tar import TarWriter

CLIPS = 4  # different ones
# Labels that training accepts: neither collapsed nor static nor noise
LABELS = LabelStatistics(by_rank=(9, 5, 3, 1), by_used=(0, 0, 0, 8), compared=100, changed=9)


def write_shards(
    folder: str | Path, counts: Sequence[int], *, side: int = 16, frames: int = 2
) -> Manifest:
    """Write a shard of ``counts[k]`` clips for each k, each with its own keys.

    Args:
        folder: to write to, a local path or a URI.
        counts: clips of each shard.
        side: height and width of the frames, pixels.
        frames: of a clip.
    """
    examples = [clip_members(k, side, frames) for k in range(CLIPS)]
    sidecars = []
    for number, count in enumerate(counts):
        tar, samples = tar_of(number, count, examples, frames)
        name = shard_name(number)
        storage.write(storage.join(folder, name), tar)
        sidecars.append(sidecar_of(name, tar, samples))
    return write_metadata(folder, sidecars, side)


def tar_of(
    number: int, count: int, examples: Sequence[dict[str, bytes]], frames: int
) -> tuple[bytes, list[SampleEntry]]:
    """A shard of ``count`` clips, and their positions in it.

    Args:
        number: of the shard, part of the keys.
        count: clips.
        examples: from ``clip_members``, which take turns.
        frames: of a clip.
    """
    tar = io.BytesIO()
    writer = TarWriter(tar)
    samples = []
    for k in range(count):
        key = f"{number:08x}_{k}"
        members = {f"{key}{name}": data for name, data in examples[k % len(examples)].items()}
        start = writer.position
        length = writer.add(members)
        samples.append(SampleEntry(key=key, offset=start, length=length, frames=frames, views=1))
    writer.close()
    return tar.getvalue(), samples


def clip_members(number: int, side: int, frames: int) -> dict[str, bytes]:
    """The tar members of a clip by the ends of their names: blocks of colour that move."""
    draw = np.random.default_rng(number)
    base = draw.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    image = base.repeat(4, 0).repeat(4, 1)
    labels = draw.integers(0, 16, (side // 4, side // 4), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    shifts = range(frames)
    clip = Clip(
        key="key",
        frames=np.stack([np.roll(image, 2 * shift, axis=1) for shift in shifts]),
        labels=np.stack([np.roll(labels, 2 * shift, axis=1) for shift in shifts])[None],
        meta={"source": str(number), "frame_indices": [*shifts], "codebooks": [0]},
    )
    return {name.removeprefix("key"): data for name, data in encode_clip(clip).items()}


def shard_name(number: int) -> str:
    """File name of a tar."""
    return f"shard-{number:016x}.tar"


def sidecar_of(name: str, tar: bytes, samples: Sequence[SampleEntry]) -> Sidecar:
    """The description of a shard."""
    sha256 = hashlib.sha256(tar).hexdigest()
    return seal(
        Sidecar(
            name=name,
            spec="",
            sha256=sha256,
            bytes=len(tar),
            samples=tuple(samples),
            sources=(),
            label_statistics=LABELS,
        )
    )


def write_metadata(folder: str | Path, sidecars: Sequence[Sidecar], side: int) -> Manifest:
    """Write index and manifest of some shards."""
    return write_tables(folder, shard_rows(sidecars), clip_rows(sidecars, 0), side)


def write_tables(folder: str | Path, shards: pa.Table, clips: pa.Table, side: int) -> Manifest:
    """Write index and manifest, of rows as of ``SHARD_SCHEMA`` and ``CLIP_SCHEMA``."""
    files = write_index(folder, shards, clips, source_rows([]))
    statistics = Statistics(
        samples=len(clips),
        frames=pc.sum(clips.column("frames")).as_py(),
        bytes=pc.sum(shards.column("bytes")).as_py(),
        sources=0,
        sampled=0,
        quarantined=0,
        rejected=0,
        cuts=0,
        static=0,
        labels=LABELS,
    )
    nothing = hashlib.sha256().hexdigest()
    config = {"size": side}
    manifest = seal(
        Manifest(
            schema=SCHEMA,
            config=config,
            config_digest=digest(config),
            versions={},
            shards_digest=nothing,
            sources_digest=nothing,
            statistics=statistics,
            index=files,
        )
    )
    storage.write(storage.join(folder, MANIFEST), to_text(manifest).encode())
    return manifest
