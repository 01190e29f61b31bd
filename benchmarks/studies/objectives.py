"""Training steps with other objectives or pairs than ``training.step``; with their own draws, which
depend on the seed and the step alone.

Shapes: B pairs of a batch; C embedding channels; K labels; V label views.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from corrfractal import CorrFractal
from corrfractal.network.correspondence import draw_densities, loss, reconstruct
from training.config import TrainingConfig
from training.data.order import STEP, rng
from training.data.reading import Batch
from training.step import learning_rate, train_step

LABELS = 16


def warped_step(
    model: CorrFractal,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    total: int,
    config: TrainingConfig,
) -> None:
    """``train_step`` with the reference of every second pair replaced by a warp of its target."""
    train_step(model, optimizer, half_warped(batch, step, config), step, total, config)


def step_with_negatives(
    model: CorrFractal,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    total: int,
    config: TrainingConfig,
) -> None:
    """A step in which each target also sees the reference of another pair, mostly of another video:
    what it takes from there counts for no label."""
    densities = _densities(step, config)
    keep = batch.keep.repeat_interleave(2, dim=0)
    embeddings = model.embed(batch.frames.flatten(0, 1), keep).unflatten(0, (-1, 2))
    own = embeddings[:, :1]
    references = torch.cat((own, own.roll(1, dims=0)), dim=1)
    labels = batch.labels.long()
    carried = F.one_hot(labels[:, :1], LABELS).float().movedim(-1, 2)
    carried = torch.cat((carried, torch.zeros_like(carried)), dim=1)
    found = reconstruct(references, carried, embeddings[:, 1], densities, model.in_training)
    _update(model, optimizer, loss(found, labels[:, 1]), learning_rate(step, total, config), config)


def step_with_views(
    model: CorrFractal,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    total: int,
    config: TrainingConfig,
) -> None:
    """A step on all label views of the same frames at once: ``labels`` are (B, V, N + 1, H, W)."""
    densities = _densities(step, config)
    views = batch.labels.unbind(dim=1)
    losses = [model(batch.frames, labels, densities, batch.keep).total for labels in views]
    mean = torch.stack(losses).mean()
    _update(model, optimizer, mean, learning_rate(step, total, config), config)


def warped_step_with_negatives(
    model: CorrFractal,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    total: int,
    config: TrainingConfig,
) -> None:
    warped = half_warped(batch, step, config)
    step_with_negatives(model, optimizer, warped, step, total, config)


def half_warped(batch: Batch, step: int, config: TrainingConfig) -> Batch:
    """Turned by up to 15 degrees, scaled by up to 1.25, moved by up to 12 pixels, with other
    brightness and contrast: correspondences are exact, and labels do not flicker."""
    draw = np.random.default_rng([config.seed, step])
    frames = batch.frames.clone()
    labels = batch.labels.clone()
    side = frames.shape[-1]
    for k in range(0, len(frames), 2):
        angle = draw.uniform(-np.pi / 12, np.pi / 12)
        scale = 1.25 ** draw.uniform(-1, 1)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = draw.uniform(-24 / side, 24 / side, (2, 1))
        theta = torch.from_numpy(np.hstack((turn, moved))).float()[None]
        grid = F.affine_grid(theta, [1, 1, side, side], align_corners=False)
        image = _sampled(frames[k, 1].float()[None], grid, "bilinear")
        contrast = draw.uniform(0.8, 1.25)
        brightness = draw.uniform(-20, 20)
        frames[k, 0] = (image * contrast + brightness).clamp(0, 255)[0].byte()
        labels[k, 0] = _sampled(labels[k, 1].float()[None, None], grid, "nearest")[0, 0].byte()
    return replace(batch, frames=frames, labels=labels)


def _densities(step: int, config: TrainingConfig) -> tuple[float, float]:
    """Those of ``train_step``."""
    uniform = tuple(rng(config.seed, STEP, step).random(2))
    return draw_densities(config.network.correspondence, uniform)


def _update(
    model: CorrFractal,
    optimizer: torch.optim.Optimizer,
    value: Tensor,
    rate: float,
    config: TrainingConfig,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_gradient)
    optimizer.step()


def _sampled(x: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(x, grid, mode=mode, padding_mode="reflection", align_corners=False)
