"""The order of samples: how well an epoch is mixed, and the bytes that hosts fetch for it.

    python benchmarks/lanes.py [--json]

The first table compares the order with that of version 0.1.0, which shuffled windows of shards for
all slots together, and with a full shuffle: 400 shards of 130 clips, of 8 videos each, in batches
of 24. "Distance in the next epoch" is that of samples which were neighbours in time, as a share of
what chance gives: of all pairs within a batch's length, and of consecutive samples of one slot.

The second table counts the bytes of shards that hosts fetch in an epoch from a server of the S3
protocol on loopback, counted by the server. A window is one shard, and every host has a cache of
its own that holds two for each of its slots. The exit status is 1 if a bar is missed.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from measure import print_table
from scale_bytes import BUCKET, CountingApp, counting_store
from synthetic_shards import write_shards

from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest
from training.config import configuration
from training.data.batches import Batches
from training.data.fetch import epoch_fetch
from training.data.order import SampleOrder, positions_of, rng

I64 = npt.NDArray[np.int64]

# Slots and shards of each data set, and the numbers of hosts
FETCHES = ((4, 20, (1, 4)), (16, 80, (1, 4, 16)), (48, 200, (1, 4, 16)))
LARGEST_FETCH = 1.1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def main(as_json: bool) -> None:
    """Measure, and compare with the bar."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    quality = quality_rows()
    measured, rows = lanes_part()
    if as_json:
        print(json.dumps({"quality": quality, "fetched": measured, "properties": rows}, indent=1))
    else:
        print_table("order: 400 shards of 130 clips, batches of 24", quality)
        print_table("fetched: bytes of shards in an epoch, over the bytes of the data", measured)
    sys.exit(any(row["holds"] == "no" for row in rows))


# --- quality


def quality_rows(shards: int = 400, clips: int = 130, batch: int = 24) -> list[dict[str, Any]]:
    """A row per order."""
    counts = np.full(shards, clips)
    rows = []
    for window in (16, 48, 96):
        order = SampleOrder(0, counts, window, batch)
        epochs = [sequence(order, epoch) for epoch in (0, 1)]
        rows.append({"order": f"lanes, shuffle_window={window}", **quality(epochs, clips, batch)})
    for window in (16, shards):
        name = "0.1.0, shuffle_window=16" if window < shards else "full shuffle"
        epochs = [earlier_order(0, epoch, counts, window) for epoch in (0, 1)]
        rows.append({"order": name, **quality(epochs, clips, batch)})
    return rows


def sequence(order: SampleOrder, epoch: int) -> I64:
    """The samples of an epoch, int64 (n,)."""
    places = range(epoch * len(order), (epoch + 1) * len(order))
    return np.array([order.sample(place) for place in places])


def earlier_order(seed: int, epoch: int, counts: I64, window: int) -> I64:
    """The samples of an epoch in the order of version 0.1.0, int64 (n,)."""
    draw = rng(seed, 0, epoch)
    shards = np.arange(len(counts)) if len(counts) <= window else draw.permutation(len(counts))
    firsts = np.cumsum(counts) - counts
    parts = []
    for start in range(0, len(shards), window):
        members = shards[start : start + window]
        samples = np.concatenate([np.arange(firsts[s], firsts[s] + counts[s]) for s in members])
        parts.append(samples[draw.permutation(len(samples))])
    return np.concatenate(parts)


def quality(epochs: list[I64], clips: int, batch: int) -> dict[str, Any]:
    """How well two consecutive epochs are mixed, for shards whose clips are of 8 videos."""
    samples, later = epochs
    shard_of = samples // clips
    video_of = shard_of * 8 + samples % clips * 8 // clips
    whole = len(samples) // batch * batch
    next_place = np.empty(len(samples))
    next_place[later] = np.arange(len(samples))
    moved = next_place[samples]
    # By chance the mean distance is a third of the epoch.
    chance = len(samples) / 3
    within = [np.abs(moved[gap:] - moved[:-gap]).mean() for gap in range(1, batch + 1)]
    one_slot = np.abs(moved[batch:] - moved[:-batch]).mean()
    return {
        "shards per batch": distinct(shard_of[:whole], batch),
        "videos per batch": distinct(video_of[:whole], batch),
        "distance in the next epoch, within a batch": float(np.mean(within) / chance),
        "distance in the next epoch, one slot": float(one_slot / chance),
        "bytes, 1 host": earlier_fetch(shard_of, batch, 1),
        "4 hosts": earlier_fetch(shard_of, batch, 4),
        "12 hosts": earlier_fetch(shard_of, batch, 12),
    }


def distinct(values: I64, batch: int) -> float:
    """Mean number of different values in a batch."""
    return float(np.mean([len(set(row)) for row in values.reshape(-1, batch).tolist()]))


def earlier_fetch(shard_of: I64, batch: int, hosts: int) -> float:
    """Shards that hosts need in an epoch, over their number, each counted once per host."""
    whole = shard_of[: len(shard_of) // batch * batch].reshape(-1, hosts, batch // hosts)
    needed = sum(len(np.unique(whole[:, host])) for host in range(hosts))
    return needed / len(np.unique(shard_of))


# --- bytes fetched


def lanes_part() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Property 6: a row per data set and number of hosts, and the rows for ``scale.py``."""
    measured = []
    with counting_store() as (app, _):
        for slots, shards, hosts in FETCHES:
            uri = f"s3://{BUCKET}/shards-{slots}"
            counts = np.random.default_rng(slots).integers(6, 24, shards).tolist()
            write_shards(uri, counts)
            measured += [fetched(app, uri, slots, count) for count in hosts]
    rows = []
    for found in measured:
        ratio = found["measured"]
        rows.append(
            {
                "no.": 6,
                "property": f"bytes that {found['hosts']} hosts fetch in an epoch, "
                f"{found['shards']} shards for {found['slots']} slots",
                "measured": f"{ratio:.3f} x",
                "bar": f"<= {LARGEST_FETCH} x, and as the dry run says",
                "holds": "yes" if ratio <= LARGEST_FETCH and ratio == found["dry run"] else "no",
            }
        )
    return measured, rows


def fetched(app: CountingApp, uri: str, slots: int, hosts: int) -> dict[str, Any]:
    """One epoch of batches on every host, one host after the other."""
    shards = Index(uri, load_manifest(uri)).shards
    data = sum(entry.bytes for entry in shards)
    room = (2 * slots // hosts + 1) * max(entry.bytes for entry in shards)
    config = replace(
        configuration("base", "cpu"),
        batch_size=slots,
        shuffle_window=slots,
        crop=None,
        cache_gb=room / 1e9,
    )
    app.take()
    with tempfile.TemporaryDirectory() as caches:
        for rank in range(hosts):
            batches = Batches(uri, config, rank, hosts, cache=Path(caches, str(rank)))
            steps = len(batches) // slots
            for _ in batches.iterate(0, steps):
                pass
            wait_for_fetches()
            # Samples that do not fill a batch belong to the epoch.
            own = positions_of(steps, slots, rank, hosts)
            for position in [place for place in own if place < len(batches)]:
                batches.example(position)
    count = sum(sent for (_, kind), sent in app.take().items() if kind == "shards")
    expected = epoch_fetch(batches.order, batches.shard_bytes(), 1, (hosts,))[hosts]
    assert expected is not None
    return {
        "slots": slots,
        "shards": len(shards),
        "hosts": hosts,
        "MB": data / 1e6,
        "measured": count / data,
        "dry run": expected / data,
        "at most, by cuts between hosts": 1 + (hosts - 1) / len(shards),
    }


def wait_for_fetches() -> None:
    """Wait until nothing more is fetched ahead."""
    for thread in threading.enumerate():
        if thread.name == "shards":
            thread.join()


if __name__ == "__main__":
    main()
