"""Backbone with aggregation (III-B, III-E, Fig. 3a): an embedding with the resolution of its input.

ResNet-18 trained from scratch, with two deviations from the textbook: the first convolution keeps
the resolution (stride 1), and only the second and the fourth stage begin with pooling. So the three
branches have these resolutions and channels:

    stem (7 x 7 convolution)   1        width
    stage 2                    1/2      2 width
    stage 4                    1/4      8 width

Each passes through a 1 x 1 lateral convolution to C channels, is up-sampled to full resolution, and
the three are summed. Cost at width 64: 88 GMAC for 256 x 256.

Shapes: B batch, C embedding channels, H x W image. The paper does not give C (64 here) nor the
initial weights of the lateral convolutions (``docs/decisions/0004``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from corrfractal.common.config import Config

from .embedder import resample


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(Config):
    """Shape of the backbone."""

    width: Annotated[int, Field(ge=4)] = 64
    """Channels of the stem; 64 is the paper's, 16 the slim network of the CPU profile (1/16 of the
    arithmetic)."""
    embedding_channels: PositiveInt = 64
    """C, channels of the embedding."""
    aggregation: bool = True
    """Sum the three branches; without (the paper's ablation without B), stage 4 alone is
    up-sampled."""
    stem_stride: PositiveInt = 1
    """Stride of the first convolution; 1 is the paper's."""


class Backbone(nn.Module):
    """(B, 3, H, W) normalised RGB -> (B, C, H, W) embedding."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        w = config.width
        C = config.embedding_channels
        self.aggregation = config.aggregation
        self.recompute = False
        """Gradient checkpointing: keep no activations inside the stages; recompute them in the
        backward pass."""
        self.stem = nn.Sequential(
            nn.Conv2d(3, w, 7, stride=config.stem_stride, padding=3, bias=False),
            nn.BatchNorm2d(w),
            nn.ReLU(inplace=True),
        )
        self.stage1 = nn.Sequential(_Block(w, w), _Block(w, w))
        self.stage2 = nn.Sequential(_pool(), _Block(w, 2 * w), _Block(2 * w, 2 * w))
        self.stage3 = nn.Sequential(_Block(2 * w, 4 * w), _Block(4 * w, 4 * w))
        self.stage4 = nn.Sequential(_pool(), _Block(4 * w, 8 * w), _Block(8 * w, 8 * w))
        branches = (w, 2 * w, 8 * w) if config.aggregation else (8 * w,)
        self.laterals = nn.ModuleList(nn.Conv2d(channels, C, 1) for channels in branches)
        # The laterals keep PyTorch's smaller initial weights: with Kaiming initialisation,
        # embedding norms dominate the first softmax.
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and not name.startswith("laterals"):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        run = _recompute if self.recompute and torch.is_grad_enabled() else _run
        stem = self.stem(images)
        second = run(self.stage2, run(self.stage1, stem))
        fourth = run(self.stage4, run(self.stage3, second))

        branches = (stem, second, fourth) if self.aggregation else (fourth,)
        size = images.shape[-2:]
        maps = []
        for lateral, branch in zip(self.laterals, branches, strict=True):
            maps.append(F.interpolate(lateral(branch), size, mode="bilinear", align_corners=False))
        return reduce(torch.add, maps)

    def on_grids(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The embedding reduced to each size, float32 (B, C, h, w), without a map of the images'
        size: see ``embedder``."""
        stem = self.stem(images)
        second = self.stage2(self.stage1(stem))
        fourth = self.stage4(self.stage3(second))
        branches = (stem, second, fourth) if self.aggregation else (fourth,)

        full = (images.shape[-2], images.shape[-1])
        maps = []
        for lateral, branch in zip(self.laterals, branches, strict=True):
            # A 1 x 1 convolution and a resize commute: fewer channels are resized.
            if branch.shape[1] > lateral.out_channels:
                narrow = lateral(branch)
                maps.append([resample(narrow, full, size) for size in sizes])
            else:
                maps.append([lateral(resample(branch, full, size)).float() for size in sizes])
        return [reduce(torch.add, parts) for parts in zip(*maps, strict=True)]

    def for_inference(self) -> Backbone:
        """A copy in evaluation mode, with batch normalisation folded into the convolutions and the
        memory layout that CPUs are fastest with."""
        fused = copy.deepcopy(self).eval()
        for module in fused.modules():
            if isinstance(module, nn.Sequential):
                _fold_normalization(module)
        fused.requires_grad_(False)
        # As a keyword alone, which the type stubs do not know.
        return nn.Module.to(fused, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold_normalization(layers: nn.Sequential) -> None:
    """Fold each batch normalisation that follows a convolution into it."""
    for number in range(len(layers) - 1):
        convolution = layers[number]
        norm = layers[number + 1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[number] = fuse_conv_bn_eval(convolution, norm)
            layers[number + 1] = nn.Identity()


def _run(stage: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = stage(x)
    return y


def _recompute(stage: nn.Module, x: Tensor) -> Tensor:
    contexts = partial(_contexts, stage)
    y: Tensor = checkpoint(
        stage, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )
    return y


def _contexts(
    stage: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first forward pass and of the recomputation, as ``checkpoint`` wants them."""
    return nullcontext(), _frozen_batch_statistics(stage)


@contextmanager
def _frozen_batch_statistics(stage: nn.Module) -> Iterator[None]:
    """Keep the running averages of batch normalisation: the first pass already updated them, and
    the recomputation would count the batch twice."""
    norms = [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d)]
    counters = [
        buffer for name, buffer in stage.named_buffers() if name.endswith("num_batches_tracked")
    ]
    momenta = [norm.momentum for norm in norms]
    counts = [counter.clone() for counter in counters]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for counter, count in zip(counters, counts, strict=True):
            counter.copy_(count)


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, padding=1)


class _Block(nn.Module):
    """The basic residual block of ResNet-18 at stride 1; a 1 x 1 convolution matches channels where
    they change."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        y += self.shortcut(x)
        return F.relu(y, inplace=True)
