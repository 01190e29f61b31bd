"""One training step, in plain PyTorch: it reads like the paper (III-D.2, III-E1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from corrfractal.correspondence import draw_densities
from corrfractal.model import Losses

from .batches import STEP, Batch, rng
from .config import TrainingConfig

HALVINGS = (2 / 5, 3 / 5, 4 / 5)


@dataclass(frozen=True)
class StepResult:
    """Means over the worker's part of the batch, scalar tensors without graph; the reconstruction for the picture."""

    loss: Tensor
    loss_a: Tensor
    loss_c: Tensor
    error: Tensor
    copy_error: Tensor
    reconstruction: Tensor
    densities: tuple[float, float]


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, step: int, total: int, config: TrainingConfig
) -> StepResult:
    """Move the weights once.

    Args:
        model: a ``CorrFractal``, bare or wrapped for data parallelism.
        optimizer: its learning rate is set here, from the step.
        batch: this worker's part of the global batch.
        step: number of the step, from 0; decides the densities, which all workers share.
        total: length of the run in steps.
        config: the run.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, total, config)
    densities = draw_densities(config.network.correspondence, tuple(rng(config.seed, STEP, step).random(2)))

    with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        losses = cast(Losses, model(batch.frames, batch.labels, densities, batch.keep))
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.clip_gradient)
    optimizer.step()

    return StepResult(
        loss=losses.total.detach(),
        loss_a=losses.appearance.detach(),
        loss_c=losses.correspondence.detach(),
        error=losses.error,
        copy_error=losses.copy_error,
        reconstruction=losses.reconstruction,
        densities=densities,
    )


def learning_rate(step: int, total: int, config: TrainingConfig) -> float:
    """Halved after 2/5, 3/5 and 4/5 of the run."""
    return config.learning_rate * 0.5 ** sum(step >= part * total for part in HALVINGS)
