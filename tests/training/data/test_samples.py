"""The driver reads manifest and index once; a worker that has the samples reads neither."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.synthetic_shards import write_shards
from corrfractal.files import storage
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest, load_sidecar
from training.config import TrainingConfig
from training.data.batches import Batches
from training.data.samples import read_samples
from training.dryrun import dry_run


def test_samples_are_the_long_enough_clips_of_all_sidecars(
    tiny_shards: Path, tiny_config: TrainingConfig
) -> None:
    samples = read_samples(tiny_shards, tiny_config)
    expected = [
        (shard.name, shard.sha256, shard.bytes, clip.offset, clip.length, clip.frames, clip.views)
        for shard in Index(tiny_shards, load_manifest(tiny_shards)).shards
        for clip in load_sidecar(tiny_shards, shard).samples
    ]
    assert [tuple(flat(samples.sample(k))) for k in range(len(samples))] == expected
    assert samples.counts.sum() == len(samples) == len(expected)


def flat(sample):
    shard, *values = sample
    return [*shard[1:], *values]


def test_shards_without_a_long_enough_clip_are_left_out_of_the_order(
    tiny_config: TrainingConfig, tmp_path: Path
) -> None:
    write_shards(tmp_path, [2, 3, 4])
    config = replace(tiny_config, crop=16)
    samples = read_samples(tmp_path, config)
    assert samples.counts.tolist() == [2, 3, 4]
    frames = samples.frames.copy()
    frames[2:5] = 1  # of the second shard
    batches = Batches(tmp_path, config)
    assert sorted({batches.sample(k).shard.number for k in range(9)}) == [0, 1, 2]

    usable = frames >= config.clip_frames_needed
    fewer = replace(
        samples,
        counts=samples.counts * [1, 0, 1],
        **{
            name: getattr(samples, name)[usable] for name in ("offset", "length", "frames", "views")
        },
    )
    batches = Batches(tmp_path, config, samples=fewer)
    assert [batches.sample(k).shard.number for k in range(6)].count(1) == 0
    assert len(batches) == 6
    assert batches.shard_bytes().tolist() == samples.sizes[[0, 2]].tolist()


def test_a_worker_reads_neither_manifest_nor_index_nor_sidecars(
    tiny_shards: Path, tiny_config: TrainingConfig, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(tiny_shards, tmp_path / "shards"))
    samples = pickle.loads(pickle.dumps(read_samples(shards, tiny_config)))
    for file in [*shards.rglob("*.json"), *shards.rglob("*.parquet")]:
        file.unlink()
    worker = Batches(shards, tiny_config, samples=samples)
    whole = Batches(tiny_shards, tiny_config)
    for step in range(4):
        assert worker[step].keys == whole[step].keys
        assert worker[step].frames.equal(whole[step].frames)


def test_the_driver_reads_every_file_of_the_metadata_once_and_no_sidecar(
    tiny_shards: Path,
    tiny_config: TrainingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = storage.read
    reads: Counter[str] = Counter()

    def counting(location):
        reads[str(location)] += 1
        return read(location)

    monkeypatch.setattr(storage, "read", counting)
    dry_run(tiny_shards, tmp_path / "run", tiny_config, (1, 2), "sqlite:///none.db")
    names = ("manifest.json", "index/shards.parquet", "index/clips/part-00000.parquet")
    assert reads == {str(tiny_shards / name): 1 for name in names}
