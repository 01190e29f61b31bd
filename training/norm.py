"""Batch normalisation over the batch of all workers, on any device.

``nn.SyncBatchNorm`` refuses CPU tensors. With it, or this, the losses and weights of a run do not
depend on how many workers share its batch (up to the order in which sums are taken), which is what
resuming at another number of workers needs; without, every worker would normalise by its own share
(docs/decisions/0021).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose mean and variance are those of all workers' pixels; every worker has
    as many."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape and dtype."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        world, count = dist.get_world_size(), x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        # The variance of all: of the workers' means, and the mean of their variances. No difference
        # of large squares.
        mean_of_all = all_reduce(mean / world)
        variance_of_all = all_reduce((variance + (mean - mean_of_all).square()) / world)
        self._remember(
            mean_of_all.detach(), variance_of_all.detach() * (world * count / (world * count - 1))
        )
        scale = self.weight * torch.rsqrt(variance_of_all + self.eps)
        shift = self.bias - mean_of_all * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None, "made by synchronize from a layer that has them"
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def synchronize(module: nn.Module) -> None:
    """Replace every ``nn.BatchNorm2d`` in a module by one that is synchronised, with the same
    parameters and names."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            synced = SyncedBatchNorm(child.num_features, child.eps, child.momentum).to(
                child.weight.device
            )
            synced.load_state_dict(child.state_dict())
            synced.train(child.training)
            setattr(module, name, synced)
        else:
            synchronize(child)
