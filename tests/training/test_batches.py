"""What sample stands where depends on seed and position alone, never on workers or history."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corrfractal.errors import IntegrityError
from corrfractal.manifest import load_manifest, sample_index
from corrfractal.sample import decode_clip, read_members
from training.batches import Batch, Batches, epoch_order, positions_of
from training.config import TrainingConfig


def batches(shards: Path, config: TrainingConfig, rank: int = 0, world: int = 1) -> Batches:
    return Batches(shards, sample_index(shards, load_manifest(shards)), config, rank, world)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("frames", "labels", "keep")) and a.keys == b.keys


def test_every_sample_is_seen_exactly_once_per_epoch(tiny_shards: Path, tiny_config: TrainingConfig) -> None:
    samples = sample_index(tiny_shards, load_manifest(tiny_shards))
    for epoch in range(3):
        assert sorted(epoch_order(7, epoch, len(samples))) == list(range(len(samples)))
    assert list(epoch_order(7, 0, 50)) != list(epoch_order(7, 1, 50)) != list(epoch_order(8, 1, 50))


@pytest.mark.parametrize("world", [2, 4])
def test_the_global_batch_is_the_same_on_any_number_of_workers(
    tiny_shards: Path, tiny_config: TrainingConfig, world: int
) -> None:
    whole = batches(tiny_shards, tiny_config)[5]
    parts = [batches(tiny_shards, tiny_config, rank, world)[5] for rank in range(world)]
    assert torch.equal(torch.cat([p.frames for p in parts]), whole.frames)
    assert torch.equal(torch.cat([p.keep for p in parts]), whole.keep)
    assert sum((p.keys for p in parts), ()) == whole.keys


def test_positions_of_all_workers_and_steps_count_up_without_gap() -> None:
    positions = [p for step in range(5) for rank in range(3) for p in positions_of(step, 12, rank, 3)]
    assert positions == list(range(60))


def test_iterating_from_a_step_gives_what_indexing_gives(tiny_shards: Path, tiny_config: TrainingConfig) -> None:
    source = batches(tiny_shards, tiny_config)
    assert all(same(batch, source[step]) for step, batch in zip(range(3, 7), source.iterate(3, 7), strict=True))


def test_an_uncropped_sample_is_what_the_shard_holds(tiny_shards: Path, tiny_config: TrainingConfig) -> None:
    source = batches(tiny_shards, replace(tiny_config, crop=None, channel_dropout=0.0))
    samples = {s.key: s for s in sample_index(tiny_shards, load_manifest(tiny_shards))}
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


def test_the_full_preset_asks_for_the_papers_references(tiny_shards: Path, tiny_config: TrainingConfig) -> None:
    config = replace(tiny_config, references="full")
    assert config.clip_frames_needed == 7
    assert batches(tiny_shards, config)[0].frames.shape == (4, 6, 3, 32, 32)


def test_one_or_two_channels_are_dropped_in_the_asked_share_of_samples(
    tiny_shards: Path, tiny_config: TrainingConfig
) -> None:
    kept = torch.stack([batches(tiny_shards, tiny_config).example(p).keep.sum() for p in range(120)])
    assert set(kept.tolist()) == {1, 2, 3}
    assert 0.55 < (kept < 3).float().mean() < 0.85


@pytest.mark.parametrize(("bottleneck", "kept"), [("lab", {2, 3}), ("none", {3})])
def test_lab_drops_one_colour_axis_and_none_drops_nothing(
    tiny_shards: Path, tiny_config: TrainingConfig, bottleneck: str, kept: set[int]
) -> None:
    config = replace(tiny_config, network=replace(tiny_config.network, bottleneck=bottleneck))
    keep = torch.stack([batches(tiny_shards, config).example(p).keep for p in range(30)])
    assert set(keep.sum(1).tolist()) == kept
    assert (keep[:, 0] == 1).all()


def test_a_batch_that_cannot_be_shared_out_is_refused(tiny_shards: Path, tiny_config: TrainingConfig) -> None:
    with pytest.raises(ValueError, match="multiple of the number of workers, 3"):
        batches(tiny_shards, tiny_config, 0, 3)


def test_a_damaged_shard_stops_with_its_name(tiny_shards: Path, tiny_config: TrainingConfig, tmp_path: Path) -> None:
    for file in tiny_shards.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes()[: 5000 if file.suffix == ".tar" else None])
    source = batches(tmp_path, tiny_config)
    with pytest.raises(IntegrityError, match=r"shard-00000\d\.tar.*corrfractal verify"):
        list(map(source.example, range(8)))
