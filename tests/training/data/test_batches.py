"""What sample stands where depends on seed and position alone, never on workers or history."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.synthetic_shards import write_shards
from corrfractal.common.errors import IntegrityError
from corrfractal.files.atomic import file_sha256
from corrfractal.shards.clip import decode_clip, read_members
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import SampleRef, load_manifest
from training.config import TrainingConfig
from training.data.batches import Batches, loader_processes
from training.data.reading import Batch


def batches(shards: Path, config: TrainingConfig, rank: int = 0, world: int = 1) -> Batches:
    return Batches(shards, config, rank, world)


def same(a: Batch, b: Batch) -> bool:
    """In values and in memory layout, which can change the order of sums in the network."""
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("frames", "labels", "keep")]
    return a.keys == b.keys and all(
        torch.equal(x, y) and x.stride() == y.stride() for x, y in pairs
    )


@pytest.mark.parametrize("world", [2, 4])
def test_the_global_batch_is_the_same_on_any_number_of_workers(
    tiny_shards: Path, tiny_config: TrainingConfig, world: int
) -> None:
    whole = batches(tiny_shards, tiny_config)[5]
    parts = [batches(tiny_shards, tiny_config, rank, world)[5] for rank in range(world)]
    assert torch.equal(torch.cat([p.frames for p in parts]), whole.frames)
    assert torch.equal(torch.cat([p.keep for p in parts]), whole.keep)
    assert sum((p.keys for p in parts), ()) == whole.keys


def test_iterating_from_a_step_gives_what_indexing_gives(
    tiny_shards: Path, tiny_config: TrainingConfig
) -> None:
    source = batches(tiny_shards, tiny_config)
    assert all(
        same(batch, source[step])
        for step, batch in zip(range(3, 7), source.iterate(3, 7), strict=True)
    )


def test_an_uncropped_sample_is_what_the_shard_holds(
    tiny_shards: Path, tiny_config: TrainingConfig
) -> None:
    source = batches(tiny_shards, replace(tiny_config, crop=None, channel_dropout=0.0))
    samples = {ref.key: ref for ref in all_refs(tiny_shards)}
    for position in range(4):
        example = source.example(position)
        ref = samples[example.key]
        block = (tiny_shards / ref.shard).read_bytes()[ref.offset : ref.offset + ref.length]
        clip = decode_clip(read_members(block))
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
        found = [
            t for t in range(1, len(frames))
            for stored in (frames, frames.flip(-1))
            if torch.equal(example.frames, stored[t - 1 : t + 1])
        ]  # fmt: skip
        assert found
        assert example.keep.sum() == 3


def test_the_full_preset_asks_for_the_papers_references(
    tiny_shards: Path, tiny_config: TrainingConfig
) -> None:
    config = replace(tiny_config, references="full")
    assert config.clip_frames_needed == 7
    assert batches(tiny_shards, config)[0].frames.shape == (4, 6, 3, 32, 32)


def test_one_or_two_channels_are_dropped_in_the_asked_share_of_samples(
    tiny_shards: Path, tiny_config: TrainingConfig
) -> None:
    source = batches(tiny_shards, tiny_config)
    kept = torch.stack([source.example(p).keep.sum() for p in range(120)])
    assert set(kept.tolist()) == {1, 2, 3}
    assert 0.55 < (kept < 3).float().mean() < 0.85


@pytest.mark.parametrize(("bottleneck", "kept"), [("lab", {2, 3}), ("none", {3})])
def test_lab_drops_one_colour_axis_and_none_drops_nothing(
    tiny_shards: Path, tiny_config: TrainingConfig, bottleneck: str, kept: set[int]
) -> None:
    config = replace(tiny_config, network=replace(tiny_config.network, bottleneck=bottleneck))
    source = batches(tiny_shards, config)
    keep = torch.stack([source.example(p).keep for p in range(30)])
    assert set(keep.sum(1).tolist()) == kept
    assert (keep[:, 0] == 1).all()


def test_a_batch_that_cannot_be_shared_out_is_refused(
    tiny_shards: Path, tiny_config: TrainingConfig
) -> None:
    with pytest.raises(ValueError, match="multiple of the number of workers, 3"):
        batches(tiny_shards, tiny_config, 0, 3)


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_a_shard_with_a_flipped_bit_stops_with_its_name(
    tiny_shards: Path, tiny_config: TrainingConfig, tmp_path: Path, loader_workers: int
) -> None:
    damaged = Path(shutil.copytree(tiny_shards, tmp_path / "damaged"))
    for tar in damaged.glob("*.tar"):
        data = bytearray(tar.read_bytes())
        data[len(data) // 2] ^= 1
        tar.write_bytes(data)
    stream = batches(damaged, replace(tiny_config, loader_workers=loader_workers)).iterate(0, 8)
    with pytest.raises(
        IntegrityError, match=r"shard-[0-9a-f]{16}\.tar is damaged.*corrfractal verify"
    ):
        list(stream)


@pytest.fixture(scope="module")
def ten_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More shards than samples in a batch of ``lanes``."""
    folder = tmp_path_factory.mktemp("ten")
    write_shards(folder, [3, 5, 2, 6, 4, 3, 5, 2, 4, 5])
    return folder


def lanes(config: TrainingConfig, processes: int, ahead: int) -> TrainingConfig:
    return replace(
        config,
        batch_size=8,
        crop=16,
        shuffle_window=10,
        loader_workers=processes,
        batches_ahead=ahead,
    )


@pytest.mark.parametrize(("processes", "ahead"), [(0, 1), (0, 7), (1, 4), (2, 1)])
def test_the_sequence_depends_on_neither_loader_processes_nor_batches_ahead(
    ten_shards: Path, tiny_config: TrainingConfig, processes: int, ahead: int
) -> None:
    """From a step in an epoch to one in the next, beside batches that are asked for one by one."""
    source = batches(ten_shards, lanes(tiny_config, 0, 1))
    stream = batches(ten_shards, lanes(tiny_config, processes, ahead)).iterate(3, 9)
    for step, batch in zip(range(3, 9), stream, strict=True):
        assert same(batch, source[step])


def test_a_stream_left_with_batches_in_flight_is_continued_exactly(
    ten_shards: Path, tiny_config: TrainingConfig
) -> None:
    source = batches(ten_shards, lanes(tiny_config, 0, 1))
    for processes, first in ((2, 0), (0, 2)):
        stream = batches(ten_shards, lanes(tiny_config, processes, 4)).iterate(first, 40)
        for step in (first, first + 1):
            assert same(next(stream), source[step])
        stream.close()


def test_what_one_loader_process_has_checked_is_not_hashed_again(
    ten_shards: Path, tiny_config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lanes(tiny_config, 2, 2)
    source = batches(ten_shards, config)
    for _ in source.iterate(0, 5):  # an epoch
        pass

    hashed: list[Path] = []

    def note(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr("training.data.cache.file_sha256", note)
    for step in range(5, 9):
        _ = source[step]
    assert hashed == []


def test_loader_processes_scale_with_the_cores_of_the_host(
    tiny_config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda")

    def processes(cores: int, workers: int) -> int:
        monkeypatch.setattr("training.data.batches.cpu_count", lambda: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(workers))
        return loader_processes(tiny_config, gpu)

    assert [processes(cores, 1) for cores in (1, 2, 6, 64)] == [1, 1, 5, 8]
    assert [processes(cores, 4) for cores in (2, 16, 64)] == [1, 3, 8]
    assert loader_processes(tiny_config, torch.device("cpu")) == 0
    assert loader_processes(replace(tiny_config, loader_workers=3), gpu) == 3
    assert loader_processes(replace(tiny_config, loader_workers=0), gpu) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("processes", [0, 2])
def test_batches_for_a_gpu_are_page_locked_and_the_same(
    ten_shards: Path, tiny_config: TrainingConfig, processes: int
) -> None:
    gpu = torch.device("cuda")
    source = batches(ten_shards, lanes(tiny_config, 0, 1))
    stream = batches(ten_shards, lanes(tiny_config, processes, 2)).iterate(0, 6, gpu)
    for step, batch in zip(range(6), stream, strict=True):
        assert batch.frames.is_pinned()
        assert same(batch.to(gpu).to(torch.device("cpu")), source[step])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_epochs_show_every_sample_twice_in_the_same_global_batches_for_1_2_and_4_workers(
    tiny_shards: Path, tiny_config: TrainingConfig, accumulate: int
) -> None:
    """The ledger: what the workers really took, in the order of parts and of workers within a
    part."""
    config = replace(tiny_config, batch_size=8, accumulate=accumulate)
    samples = [ref.key for ref in all_refs(tiny_shards)]
    steps = -(-2 * len(samples) // 8)
    ledgers = {world: ledger(tiny_shards, config, world, steps) for world in (1, 2, 4)}
    assert ledgers[1] == ledgers[2] == ledgers[4]
    seen = [key for batch in ledgers[1] for key in batch]
    for epoch in range(2):
        assert sorted(seen[epoch * len(samples) : (epoch + 1) * len(samples)]) == sorted(samples)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lanes_show_every_sample_twice_in_the_same_global_batches_for_1_2_and_4_workers(
    tiny_config: TrainingConfig, tmp_path: Path, accumulate: int
) -> None:
    """As above with more shards than samples in a batch, and epochs that end within a batch."""
    write_shards(tmp_path, [3, 5, 2, 6, 4, 3, 5, 2, 4, 5])
    config = replace(tiny_config, batch_size=8, accumulate=accumulate, crop=16, shuffle_window=10)
    samples = sorted(ref.key for ref in all_refs(tmp_path))
    ledgers = {world: ledger(tmp_path, config, world, 10) for world in (1, 2, 4)}
    assert ledgers[1] == ledgers[2] == ledgers[4]
    seen = [key for batch in ledgers[1] for key in batch]
    assert sorted(seen[: len(samples)]) == sorted(seen[len(samples) : 2 * len(samples)]) == samples
    assert ledger(tmp_path, config, 2, 10, first=7) == ledgers[1][7:]


def all_refs(shards: Path) -> list[SampleRef]:
    return list(Index(shards, load_manifest(shards)).sample_refs())


def ledger(
    shards: Path, config: TrainingConfig, world: int, steps: int, first: int = 0
) -> list[list[str]]:
    workers = [batches(shards, config, rank, world) for rank in range(world)]
    return [
        [
            key
            for part in range(config.accumulate)
            for w in taken
            for key in w.parts(config.accumulate)[part].keys
        ]
        for taken in ([worker[step] for worker in workers] for step in range(first, steps))
    ]
