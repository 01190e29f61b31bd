"""A training step on each device, and checkpoints that move between devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corrfractal.network.model import CorrFractalConfig
from training.config import TrainingConfig
from training.data.reading import Batch
from training.loop import build
from training.state.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from training.step import train_step

CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    network=CorrFractalConfig(width=4, embedding_channels=8), batch_size=4, learning_rate=1e-3
)


def batch(seed: int = 0, side: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (4, 2, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 16, (4, 2, side, side), generator=generator, dtype=torch.uint8)
    return Batch(frames, labels, torch.ones(4, 3), ("",) * 4)


def train(config: TrainingConfig, device: torch.device, steps: int = 3) -> list[float]:
    """Losses of a few steps from the seed's initial weights."""
    model, optimizer = build(config, device, 1)
    losses = []
    for step in range(steps):
        result = train_step(model, optimizer, batch(step).to(device), step, steps, config)
        losses.append(float(result.loss))
    return losses


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_of_float32_are_those_of_the_cpu(device: torch.device, accumulate: int) -> None:
    config = replace(CONFIG, accumulate=accumulate)
    exact = train(replace(config, recompute=True), CPU)  # another way to the same losses
    assert train(config, device) == pytest.approx(exact, rel=2e-3)


def test_losses_of_bfloat16_are_near_those_of_float32(device: torch.device) -> None:
    half = train(replace(CONFIG, precision="bf16"), device)
    assert half == pytest.approx(train(CONFIG, CPU), rel=0.05)


def test_the_same_step_twice_gives_the_same_loss(device: torch.device) -> None:
    assert train(CONFIG, device, 1) == train(CONFIG, device, 1)


def test_a_step_does_not_wait_for_the_device(device: torch.device) -> None:
    """PyTorch raises an error where the CPU would wait for the GPU. On the CPU nothing waits, and
    the test only runs its code."""
    model, optimizer = build(CONFIG, device, 1)
    data = batch().to(device)
    train_step(model, optimizer, data, 0, 3, CONFIG)  # creates the optimiser's state
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        result = train_step(model, optimizer, data, 1, 3, CONFIG)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(result.loss)


def test_a_checkpoint_moves_to_the_device_and_back(device: torch.device, tmp_path: Path) -> None:
    model, optimizer = build(CONFIG, device, 1)
    for step in range(2):
        train_step(model, optimizer, batch(step).to(device), step, 4, CONFIG)
    checkpoint = Checkpoint(
        step=2,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        shards_digest="s",
        config_digest="c",
        run_id="",
    )
    save_checkpoint(tmp_path, checkpoint.snapshot(), keep=1)

    losses = []
    for target in (device, CPU):
        read = latest_checkpoint(tmp_path)
        assert read is not None
        other, resumed = build(replace(CONFIG, seed=9), target, 1)
        other.load_state_dict(read.model)
        resumed.load_state_dict(read.optimizer)
        for name, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[name].cpu(), value.cpu()), name
        result = train_step(other, resumed, batch(2).to(target), 2, 4, CONFIG)
        losses.append(float(result.loss))
    result = train_step(model, optimizer, batch(2).to(device), 2, 4, CONFIG)
    assert losses[0] == float(result.loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
