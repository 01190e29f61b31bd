"""How soon a training worker has its first batch, by the number of clips in the data set.

The index is that of a real data set; of the shards, only those of the first batch exist. As in a
run on Ray, the driver reads manifest and index and puts the columns into the object store. A
worker, with its modules imported, maps them and makes the first batch: it hashes and decodes real
shards.
"""

from __future__ import annotations

import gc
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from measure import status_mb
from synthetic_shards import LABELS, clip_members, shard_name, tar_of, write_tables

from corrfractal.shards.index import CLIP_SCHEMA, SHARD_SCHEMA
from training.config import TrainingConfig, configuration
from training.data.order import SampleOrder

SIDE = 256
FRAMES = 8
WORKERS = 4  # among which the batch is divided


def write_large(folder: Path, clips: int, config: TrainingConfig) -> int:
    """Write a data set of at least ``clips`` clips, with the shards of the first batch of
    ``config`` only.

    Returns:
        The number of shards in its index.
    """
    folder.mkdir()
    draw = np.random.default_rng(0)
    counts = draw.integers(40, 86, -(-clips // 62))
    order = SampleOrder(config.seed, counts, config.shuffle_window, config.batch_size)
    first_batch = [order.sample(position) for position in range(config.batch_size)]
    needed = np.unique(np.searchsorted(np.cumsum(counts), first_batch, side="right"))

    # Positions as they could be, and as they are in the shards that exist
    lengths = draw.integers(300, 900, counts.sum()).astype(np.int64) * 512
    starts = np.cumsum(counts) - counts
    sizes = np.add.reduceat(lengths, starts)
    offsets = np.cumsum(lengths) - lengths
    offsets -= np.repeat(offsets[starts], counts)
    hashes = [draw.bytes(32).hex() for _ in counts]
    examples = [clip_members(k, SIDE, FRAMES) for k in range(4)]
    for number in needed.tolist():
        tar, entries = tar_of(number, int(counts[number]), examples, FRAMES)
        (folder / shard_name(number)).write_bytes(tar)
        hashes[number] = hashlib.sha256(tar).hexdigest()
        sizes[number] = len(tar)
        within = slice(starts[number], starts[number] + counts[number])
        offsets[within] = [entry.offset for entry in entries]
        lengths[within] = [entry.length for entry in entries]

    keys = draw.integers(0, 1 << 63, counts.sum())
    table = pa.table(
        {
            "shard": np.repeat(np.arange(len(counts)), counts),
            "key": [f"{key:016x}_0" for key in keys.tolist()],
            "offset": offsets,
            "length": lengths,
            "frames": np.full(counts.sum(), FRAMES),
            "views": np.full(counts.sum(), 1),
        }
    )
    rows = [
        {
            "name": shard_name(number),
            "sha256": hashes[number],
            "bytes": int(sizes[number]),
            "samples": int(counts[number]),
            "frames": int(counts[number]) * FRAMES,
            "spec": hashes[number],
            "sidecar": hashes[number],
            "cuts": 0,
            "static": 0,
            "seconds": 0.0,
            **vars(LABELS),
        }
        for number in range(len(counts))
    ]
    shards = pa.Table.from_pylist(rows, SHARD_SCHEMA)
    write_tables(folder, shards, table.cast(CLIP_SCHEMA), SIDE)
    return len(counts)


def read_as_driver(folder: Path, config: TrainingConfig) -> tuple[Any, dict[str, float]]:
    """The columns of a data set, with seconds and peak growth of resident memory in MB."""
    from training.data.samples import read_samples

    gc.collect()
    before, started = start()
    samples = read_samples(folder, config)
    return samples, spent(before, started)


def first_batch(folder: Path, config: TrainingConfig, columns: list[Any]) -> dict[str, float]:
    """What a worker does before its first step; ``columns``: their reference, if it has one.

    Returns:
        Seconds, peak growth of resident memory, and the growth that no other process shares, MB.
    """
    import ray
    import torch

    from training.data.batches import Batches

    torch.set_num_threads(1)
    Batches(folder.parent / "warm", config, 0, WORKERS)[0]  # imports and one-off allocations
    gc.collect()
    own = status_mb("RssAnon")
    before, started = start()
    samples = ray.get(columns[0]) if columns else None
    Batches(folder, config, 0, WORKERS, samples=samples)[0]
    return {**spent(before, started), "own_mb": status_mb("RssAnon") - own}


def start() -> tuple[float, float]:
    """Resident memory in MB and time, now; the peak counts from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_mb("VmRSS"), time.monotonic()


def spent(before: float, started: float) -> dict[str, float]:
    """Since ``start``."""
    return {
        "seconds": time.monotonic() - started,
        "peak_mb": status_mb("VmHWM") - before,
    }


def measure_index(folder: Path, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """One row per number of clips: the driver, a worker that is handed the columns, and a worker
    that reads manifest and index itself."""
    import ray

    config = replace(configuration("base", "gpu"), loader_workers=0)
    folder.mkdir()
    write_large(folder / "warm", 2000, config)
    for name in (__name__, "measure"):  # workers cannot import them
        ray.cloudpickle.register_pickle_by_value(sys.modules[name])
    rows = []
    for clips in sizes:
        data = folder / f"{clips}-clips"
        shards = write_large(data, clips, config)
        ray.init(num_cpus=1, log_to_driver=False, include_dashboard=False)
        try:
            # Each in a process of its own
            task = ray.remote(max_calls=1)(first_batch)
            samples, driver = read_as_driver(data, config)
            handed = ray.get(task.remote(data, config, [ray.put(samples)]))
            alone = ray.get(task.remote(data, config, []))
        finally:
            ray.shutdown()
        rows.append(
            {
                "clips": len(samples),
                "shards": shards,
                "driver": driver,
                "worker": handed,
                "worker_that_reads": alone,
            }
        )
    return rows
