"""One training step, in plain PyTorch: it reads like the paper (III-D.2, III-E1)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from corrfractal.network.correspondence import draw_densities
from corrfractal.network.model import Losses
from training.data.batches import Batch
from training.data.order import STEP, rng

from .config import TrainingConfig

HALVINGS = (2 / 5, 3 / 5, 4 / 5)


@dataclass(frozen=True)
class StepResult:
    """Means over the worker's share of the batch, scalar tensors without graph.

    ``gradient_norm`` is of the whole batch, before clipping.
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
    """Move the weights once.

    Args:
        model: a ``CorrFractal``, bare or wrapped for data parallelism.
        optimizer: its learning rate is set here, from the step.
        batch: this worker's share of the global batch.
        step: number of the step, from 0; decides the densities, which all workers share.
        total: length of the run in steps.
        config: the run.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, total, config)
    densities = draw_densities(
        config.network.correspondence, tuple(rng(config.seed, STEP, step).random(2))
    )

    optimizer.zero_grad(set_to_none=True)
    parts = []
    for k, part in enumerate(batch.parts(config.accumulate)):
        with _gradients_stay_here(model) if k + 1 < config.accumulate else nullcontext():
            with torch.autocast(
                batch.frames.device.type, torch.bfloat16, enabled=config.precision == "bf16"
            ):
                losses = cast(Losses, model(part.frames, part.labels, densities, part.keep))
            (losses.total / config.accumulate).backward()
        parts.append(Losses(*(each.detach() for each in losses)))
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
    """Halved after 2/5, 3/5 and 4/5 of the run."""
    return config.learning_rate * 0.5 ** sum(step >= part * total for part in HALVINGS)


def _gradients_stay_here(model: nn.Module) -> AbstractContextManager[None]:
    """Workers add up their gradients once a step, with the last part."""
    return (
        model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()
    )
