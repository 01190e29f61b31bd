"""Reading training samples compared with plain `webdataset` on the same shards.

    python benchmarks/input.py SHARDS

All readers give batches of two frames and one view of labels per clip, cropped and flipped, in one
process and one thread. `webdataset` streams the tar files through its shuffle buffer, and decodes
either the same two frames of each clip or, as its `.decode()` would, all frames. Two further rows
compare both without decoding. Readers run in turns; the result is the median rate in samples per
second of CPU time.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import webdataset
from measure import print_table

from corrfractal.shards.clip import decode_clip, read_members
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest
from training.config import TrainingConfig, configuration
from training.data.batches import Batches, _crop_and_flip
from training.data.order import positions_of

OURS_RAW = "ours, members as bytes"


@click.command()
@click.argument("shards", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--samples", default=240, show_default=True, help="Number of samples read in each turn."
)
@click.option("--turns", default=5, show_default=True)
def main(shards: Path, samples: int, turns: int) -> None:
    torch.set_num_threads(1)
    config = replace(configuration("base", "cpu"), batch_size=8)
    readers = {
        "ours": lambda: ours(shards, config),
        "webdataset, the same two frames": lambda: plain(shards, config, every=False),
        "webdataset, all frames": lambda: plain(shards, config, every=True),
        OURS_RAW: lambda: ours_raw(shards, config),
        "webdataset, members as bytes": lambda: plain(shards, config, every=False, raw=True),
    }
    streams = {name: make() for name, make in readers.items()}
    for stream in streams.values():
        # Hashing and opening files happen once per run and are not measured.
        next(stream)
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(turns):
        for name, stream in streams.items():
            started = time.process_time()
            for _ in itertools.islice(stream, samples // config.batch_size):
                pass
            rates[name].append(samples / (time.process_time() - started))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rows = [
        {
            "reader": name,
            "samples/s": rate,
            "ours / this": medians[OURS_RAW if "bytes" in name else "ours"] / rate,
        }
        for name, rate in medians.items()
    ]
    print_table("input: samples per second of one core", rows)


def ours(shards: Path, config: TrainingConfig) -> Iterator[Any]:
    batches = Batches(shards, config)
    return (batches[step] for step in itertools.count())


def ours_raw(shards: Path, config: TrainingConfig) -> Iterator[Any]:
    batches = Batches(shards, config)
    for step in itertools.count():
        positions = positions_of(step, config.batch_size)
        samples = [batches.sample(position) for position in positions]
        yield [read_members(batches.files.read(s.shard, s.offset, s.length)) for s in samples]


def plain(shards: Path, config: TrainingConfig, *, every: bool, raw: bool = False) -> Iterator[Any]:
    """A reader as a user of webdataset would write it; ``every``: decode all frames."""
    urls = [str(shards / entry.name) for entry in Index(shards, load_manifest(shards)).shards]
    draw = np.random.default_rng(0)

    def decode(sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        key = sample["__key__"]
        members = {
            f"{key}.{name}": data for name, data in sample.items() if not name.startswith("__")
        }
        count = sum(name.endswith(".jpg") for name in sample)
        target = int(draw.integers(config.clip_frames_needed - 1, count))
        frames_wanted = None if every else (target - 1, target)
        views_wanted = None if every else (0,)
        clip = decode_clip(members, frames=frames_wanted, views=views_wanted)
        if every:
            pair = slice(target - 1, target + 1)
            clip = replace(clip, frames=clip.frames[pair], labels=clip.labels[:1, pair])
        frames, labels = _crop_and_flip(clip, config.crop, draw)
        return torch.from_numpy(frames).permute(0, 3, 1, 2), torch.from_numpy(labels)

    data = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).repeat().shuffle(200)
    if raw:
        return iter(data.batched(config.batch_size, collation_fn=list))
    return iter(data.map(decode).batched(config.batch_size, collation_fn=collated))


def collated(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.stack(parts) for parts in zip(*samples, strict=True))


if __name__ == "__main__":
    main()
