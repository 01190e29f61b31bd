"""One training step (III-D.2, III-E1): forward, backward, clip, update."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from corrfractal.network.correspondence import draw_densities
from corrfractal.network.model import Losses
from training.data.order import STEP, rng
from training.data.reading import Batch

from .config import TrainingConfig

HALVINGS = (2 / 5, 3 / 5, 4 / 5)  # of the run; the learning rate is halved after each


@dataclass(frozen=True)
class StepResult:
    """Scalar tensors without graph: means over this worker's share of the batch.

    Attributes:
        loss: total loss.
        loss_a: of the appearance module.
        loss_c: of the correspondence module.
        error: share of wrong pixels.
        copy_error: the same for copying the nearest reference's labels in place.
        gradient_norm: of the batch of all workers, before clipping.
        densities: drawn for this step.
    """

    loss: Tensor
    loss_a: Tensor
    loss_c: Tensor
    error: Tensor
    copy_error: Tensor
    gradient_norm: Tensor
    densities: tuple[float, float]


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    total: int,
    config: TrainingConfig,
) -> StepResult:
    """Update the weights once.

    Args:
        model: a ``CorrFractal``, possibly wrapped for data parallelism.
        optimizer: its learning rate is set here.
        batch: this worker's share of the batch.
        step: number of the step, from 0.
        total: length of the run in steps.
        config: of the run.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, total, config)
    # By the step, so that all workers have the same densities.
    uniform = tuple(rng(config.seed, STEP, step).random(2))
    densities = draw_densities(config.network.correspondence, uniform)

    optimizer.zero_grad(set_to_none=True)
    device = batch.frames.device.type
    parts = []
    for k, part in enumerate(batch.parts(config.accumulate)):
        last = k + 1 == config.accumulate
        with nullcontext() if last else _without_reduction(model):
            with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16"):
                losses = cast(Losses, model(part.frames, part.labels, densities, part.keep))
            (losses.total / config.accumulate).backward()
        parts.append(Losses(*(value.detach() for value in losses)))

    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_gradient)
    optimizer.step()

    def mean(name: str) -> Tensor:
        return torch.stack([getattr(losses, name) for losses in parts]).mean()

    return StepResult(
        loss=mean("total"),
        loss_a=mean("appearance"),
        loss_c=mean("correspondence"),
        error=mean("error"),
        copy_error=mean("copy_error"),
        gradient_norm=norm.detach(),
        densities=densities,
    )


def learning_rate(step: int, total: int, config: TrainingConfig) -> float:
    """Learning rate of a step, from 0: halved after 2/5, 3/5 and 4/5 of the run."""
    return config.learning_rate * 0.5 ** sum(step >= part * total for part in HALVINGS)


def _without_reduction(model: nn.Module) -> AbstractContextManager[None]:
    """Accumulate gradients in this worker only: workers reduce them once per step, in the backward
    pass of the last part."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return nullcontext()
