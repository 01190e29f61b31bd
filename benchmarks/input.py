"""Reading training samples: compared with plain `webdataset`, decoder by decoder, and as fast as a
GPU.

    python benchmarks/input.py SHARDS [--parts readers,decoders,feeding]

- readers: batches of two frames and one view of labels per clip, cropped and flipped, in one
  process and one thread. `webdataset` streams the tar files through its shuffle buffer, and decodes
  either the same two frames of each clip or, as its `.decode()` would, all frames. Two further rows
  compare both without decoding. Readers run in turns; the result is the median rate in samples per
  second of CPU time.
- decoders: stored JPEGs decoded by several libraries in turns, and the largest difference of a
  value from what training sees.
- feeding: a step of 20 ms that needs no processor, as of a GPU, takes batches of four samples of
  the published size. The wait for data is measured, which depends on the cores that are free, and
  the processor time of a sample, from which the cores for such a step follow.
"""

from __future__ import annotations

import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import torch
import webdataset
from measure import print_table

from corrfractal.shards.clip import decode_clip, read_members
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest
from training.config import TrainingConfig, configuration
from training.data.batches import Batches
from training.data.order import positions_of
from training.data.reading import crop_and_flip

PARTS = ("readers", "decoders", "feeding")
OURS_RAW = "ours, members as bytes"

# What an H100 may need for four samples of the published size
STEP_SECONDS = 0.02
STEP_SAMPLES = 4
STEPS = 60


@click.command()
@click.argument("shards", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--samples", default=240, show_default=True, help="Number of samples read in each turn."
)
@click.option("--turns", default=5, show_default=True)
@click.option("--parts", default=",".join(PARTS), show_default=True)
def main(shards: Path, samples: int, turns: int, parts: str) -> None:
    torch.set_num_threads(1)
    for part in parts.split(","):
        if part == "readers":
            print_table("input: samples per second of one core", readers(shards, samples, turns))
        elif part == "decoders":
            print_table("JPEG decoders: frames of the shards", decoders(shards, turns))
        elif part == "feeding":
            print_table("feeding: a step of 20 ms and four samples", feeding(shards))
        else:
            raise click.BadParameter(f"{part}: one of {', '.join(PARTS)}")


# --- readers


def readers(shards: Path, samples: int, turns: int) -> list[dict[str, Any]]:
    """A row per reader."""
    config = replace(configuration("base", "cpu"), batch_size=8)
    makers = {
        "ours": lambda: ours(shards, config),
        "webdataset, the same two frames": lambda: plain(shards, config, every=False),
        "webdataset, all frames": lambda: plain(shards, config, every=True),
        OURS_RAW: lambda: ours_raw(shards, config),
        "webdataset, members as bytes": lambda: plain(shards, config, every=False, raw=True),
    }
    streams = {name: make() for name, make in makers.items()}
    for stream in streams.values():
        # Hashing and opening files happen once per run and are not measured.
        next(stream)
    rates: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(turns):
        for name, stream in streams.items():
            started = time.process_time()
            for _ in itertools.islice(stream, samples // config.batch_size):
                pass
            rates[name].append(samples / (time.process_time() - started))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return [
        {
            "reader": name,
            "samples/s": rate,
            "ours / this": medians[OURS_RAW if "bytes" in name else "ours"] / rate,
        }
        for name, rate in medians.items()
    ]


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
        frames, labels = crop_and_flip(clip, config.crop, draw)
        return torch.from_numpy(frames).permute(0, 3, 1, 2), torch.from_numpy(labels)

    data = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).repeat().shuffle(200)
    if raw:
        return iter(data.batched(config.batch_size, collation_fn=list))
    return iter(data.map(decode).batched(config.batch_size, collation_fn=collated))


def collated(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.stack(parts) for parts in zip(*samples, strict=True))


# --- decoders


def decoders(shards: Path, turns: int, frames: int = 48) -> list[dict[str, Any]]:
    """A row per decoder: the median of CPU time."""
    import cv2
    import simplejpeg
    from PIL import Image

    def by_torchvision(data: bytes) -> Any:
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return decode_jpeg(buffer, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()

    cv2.setNumThreads(1)
    candidates: dict[str, Callable[[bytes], Any]] = {
        "simplejpeg, as training uses it": lambda data: simplejpeg.decode_jpeg(data, "RGB"),
        "simplejpeg, fast DCT": lambda data: simplejpeg.decode_jpeg(data, "RGB", fastdct=True),
        "simplejpeg, fast upsampling": lambda data: simplejpeg.decode_jpeg(
            data, "RGB", fastupsample=True
        ),
        "OpenCV": lambda data: cv2.imdecode(
            np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR_RGB
        ),
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
    }
    try:
        from torchvision.io import ImageReadMode, decode_jpeg  # type: ignore[import-not-found]
    except ImportError:
        pass
    else:
        candidates["torchvision"] = by_torchvision

    stored = [jpeg for _, jpeg in zip(range(frames), stored_jpegs(shards), strict=False)]
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(2 * turns + 1):
        for name, decode in candidates.items():
            started = time.process_time()
            for data in stored:
                decode(data)
            times[name].append((time.process_time() - started) / len(stored))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = next(iter(candidates))
    wanted = [candidates[ours](data).astype(int) for data in stored]
    return [
        {
            "decoder": name,
            "ms per frame": 1e3 * medians[name],
            "this / ours": medians[name] / medians[ours],
            "largest difference": max(
                int(np.abs(decode(data) - image).max())
                for data, image in zip(stored, wanted, strict=True)
            ),
        }
        for name, decode in candidates.items()
    ]


def stored_jpegs(shards: Path) -> Iterator[bytes]:
    """The frames of all clips."""
    batches = Batches(shards, configuration("base", "gpu"))
    for position in itertools.count():
        sample = batches.sample(position)
        members = read_members(batches.files.read(sample.shard, sample.offset, sample.length))
        yield from (data for name, data in members.items() if name.endswith(".jpg"))


# --- feeding


def feeding(shards: Path) -> list[dict[str, Any]]:
    """A row per preset and number of processes."""
    rows = []
    for preset in ("base", "full"):
        config = replace(
            configuration(preset, "gpu"), batch_size=STEP_SAMPLES, loader_workers=0, batches_ahead=4
        )
        cost = seconds_of_sample(shards, config)
        cores = cost * STEP_SAMPLES / STEP_SECONDS
        for processes in (0, 1, 2):
            rows.append(
                {
                    "preset": preset,
                    "CPU ms per sample": 1e3 * cost,
                    "cores for 200 samples/s": cores,
                    "processes": processes or "thread",
                    **fed(shards, replace(config, loader_workers=processes)),
                }
            )
    return rows


def seconds_of_sample(shards: Path, config: TrainingConfig, turns: int = 25) -> float:
    """CPU time of a sample, read and decoded in this thread: the least of several turns, which
    other load on the machine has slowed least."""
    batches = Batches(shards, config)
    times = []
    for turn in range(turns + 1):
        started = time.thread_time()
        for step in range(4 * turn, 4 * turn + 4):
            _ = batches[step]
        times.append((time.thread_time() - started) / (4 * config.batch_size))
    return min(times[1:])


def fed(shards: Path, config: TrainingConfig) -> dict[str, Any]:
    """Take batches, sleeping through each step."""
    warm = 10
    stream = Batches(shards, config).iterate(0, warm + STEPS)
    for _ in range(warm):
        next(stream)
        time.sleep(STEP_SECONDS)
    own, loaders = processor_seconds()
    started = time.monotonic()
    waited = 0.0
    for _ in range(STEPS):
        asked = time.monotonic()
        next(stream)
        waited += time.monotonic() - asked
        time.sleep(STEP_SECONDS)
    seconds = time.monotonic() - started
    own_after, loaders_after = processor_seconds()
    stream.close()  # type: ignore[attr-defined]
    used = own_after - own + loaders_after - loaders
    return {
        "samples/s here": STEPS * STEP_SAMPLES / seconds,
        "data_wait here": waited / seconds,
        "cores that it got": used / seconds,
    }


def processor_seconds() -> tuple[float, float]:
    """CPU time so far of this process, and of the processes that it has started."""
    process = psutil.Process()
    children = process.children(recursive=True)
    times = [each.cpu_times() for each in (process, *children)]
    own, *others = [each.user + each.system for each in times]
    return own, sum(others)


if __name__ == "__main__":
    main()
