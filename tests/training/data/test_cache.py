"""A remote shard is fetched once per host, checked, and pushed out when room is needed; nothing
unchecked is read."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.synthetic_shards import write_shards
from corrfractal.common.errors import CorrFractalError, IntegrityError
from corrfractal.files import storage
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest
from training.config import TrainingConfig
from training.data.batches import Batches
from training.data.cache import CHANNELS, ShardFiles
from training.data.fetch import epoch_fetch
from training.data.samples import Shard


def write(uri: str, count: int, size: int = 1000) -> list[Shard]:
    """Shards of ``size`` bytes k each."""
    shards = []
    for k in range(count):
        data = bytes([k]) * size
        name = f"shard-{k:06d}.tar"
        storage.write(storage.join(uri, name), data)
        shards.append(Shard(k, name, hashlib.sha256(data).hexdigest(), size))
    return shards


def held(folder: Path) -> set[bytes]:
    return {path.read_bytes()[:1] for path in folder.glob("*.tar")}


def test_what_is_read_is_what_the_shard_holds_and_it_is_fetched_once(tmp_path: Path) -> None:
    uri = "memory://once"
    shard = write(uri, 2)[1]
    files = ShardFiles(uri, 8, tmp_path, limit=10_000)
    for _ in range(3):
        assert files.read(shard, 10, 5) == b"\1" * 5
    assert files.fetched_bytes == 1000
    again = ShardFiles(uri, 8, tmp_path, limit=10_000)  # another run on this host
    assert again.read(shard, 0, 3) == b"\1" * 3
    assert again.fetched_bytes == 0


def test_the_shards_used_longest_ago_make_room_and_come_back_when_asked_for(tmp_path: Path) -> None:
    uri = "memory://room"
    shards = write(uri, 4)
    files = ShardFiles(uri, 8, tmp_path, limit=3000)
    for k in range(3):
        os.utime(files.ready(shards[k]), (k, k))
    os.utime(files.ready(shards[0]), (10, 10))
    files.ready(shards[3])
    assert held(tmp_path) == {b"\0", b"\2", b"\3"}
    assert files.read(shards[1], 0, 1) == b"\1"
    assert sum(path.stat().st_size for path in tmp_path.glob("*.tar")) <= 3000


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_fetches_counts(
    tmp_path: Path,
) -> None:
    import fcntl

    uri = "memory://left"
    shards = write(uri, 3)
    files = ShardFiles(uri, 8, tmp_path, limit=2500)
    # Channels of their own
    stale, live = (
        tmp_path / f"{'a' * 8}.{channel}.1000.part" for channel in (CHANNELS, CHANNELS + 1)
    )
    for part in (stale, live):
        part.write_bytes(b"half")
    with (tmp_path / f"channel-{CHANNELS + 1}").open("w") as channel:
        fcntl.flock(channel, fcntl.LOCK_EX)
        for k in range(3):
            files.ready(shards[k])
        assert not stale.exists()
        assert live.exists()
        assert held(tmp_path) == {b"\2"}, (
            "the live one takes 1000 of 2500 bytes, so one shard fits beside it"
        )


def test_a_shard_that_could_never_fit_is_refused(tmp_path: Path) -> None:
    uri = "memory://large"
    (shard,) = write(uri, 1)
    files = ShardFiles(uri, 8, tmp_path, limit=999)
    with pytest.raises(CorrFractalError, match=r"shard-000000\.tar has .* raise cache_gb"):
        files.ready(shard)


def test_a_flipped_byte_at_the_other_end_stops_with_the_shards_name_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    uri = "memory://flipped"
    (shard,) = write(uri, 1)
    files = ShardFiles(uri, 8, tmp_path, limit=10_000)
    storage.write(f"{uri}/shard-000000.tar", b"\0" * 500 + b"\1" + b"\0" * 499)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"memory://flipped/shard-000000\.tar is damaged"):
            files.read(shard, 0, 1)
    assert list(tmp_path.glob("*.tar")) + list(tmp_path.glob("*.part")) == []


def _read_all(uri: str, shards: list[Shard], folder: Path, rounds: int) -> bool:
    files = ShardFiles(uri, 8, folder, limit=4 * 300_000)
    return all(
        files.read(shard, 100, 2) == bytes([shard.number] * 2)
        for _ in range(rounds)
        for shard in shards
    )


def test_processes_that_push_out_each_others_shards_all_read_the_right_bytes(
    tmp_path: Path,
) -> None:
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    uri = f"local://{source}"  # a URI to all of our code, and visible in every process
    found = write(uri, 8, 300_000)
    context = multiprocessing.get_context("forkserver")
    with context.Pool(3) as pool:
        assert all(pool.starmap(_read_all, [(uri, found, cache, 6)] * 3))
    assert sum(path.stat().st_size for path in cache.glob("*.tar")) <= 4 * 300_000
    assert list(cache.glob("*.part")) == []


def test_batches_from_an_object_store_are_those_of_the_local_shards(
    tiny_shards: Path, tiny_config: TrainingConfig, s3: str, tmp_path: Path
) -> None:
    uri = f"{s3}/training"
    for file in tiny_shards.rglob("*"):
        if file.is_file():
            storage.write(f"{uri}/{file.relative_to(tiny_shards)}", file.read_bytes())
    config = replace(
        tiny_config, shuffle_window=1, cache_gb=1e-9 * load_manifest(uri).statistics.bytes
    )
    remote, local = Batches(uri, config, cache=tmp_path), Batches(tiny_shards, config)
    for step in range(6):
        assert remote[step].keys == local[step].keys
        assert remote[step].frames.equal(local[step].frames)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_fetch_in_an_epoch_what_the_arithmetic_says(
    tiny_config: TrainingConfig, s3: str, tmp_path: Path, hosts: int
) -> None:
    """Separate caches, each of which holds less than its host needs in all."""
    uri = f"{s3}/epoch-of-{hosts}"
    counts = [3, 5, 2, 4, 6, 3, 5, 4, 2, 6, 3, 5, 4, 4, 3, 5, 4, 4, 6, 2]
    largest = max(entry.bytes for entry in Index(uri, write_shards(uri, counts)).shards)
    room = (2 * 4 // hosts + 1) * largest
    config = replace(tiny_config, shuffle_window=1, crop=16, cache_gb=1e-9 * room)
    workers = [
        Batches(uri, config, rank, hosts, cache=tmp_path / str(rank)) for rank in range(hosts)
    ]
    steps, rest = divmod(len(workers[0]), 4)
    assert rest == 0
    for worker in workers:
        assert len(list(worker.iterate(0, steps))) == steps
    wait_for_fetches()
    fetched = sum(worker.files.fetched_bytes for worker in workers)
    first = workers[0]
    assert fetched == epoch_fetch(first.order, first.shard_bytes(), 1, (hosts,))[hosts]


def wait_for_fetches() -> None:
    for thread in threading.enumerate():
        if thread.name == "shards":
            thread.join()
