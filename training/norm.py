"""Batch normalisation over the batch of all workers, on any device.

With it the losses and weights of a run do not depend on the number of workers, up to the order of
summation, so a run can resume with another number. Without it every worker would normalise by its
own share of the batch (docs/decisions/0021). ``nn.SyncBatchNorm`` does the same on GPUs, but
refuses CPU tensors.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with the mean and variance of all workers' pixels. Every worker must have
    the same number of them."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape and dtype."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)

        # One reduction, in which each worker fills its own row of zeros: every worker then has all
        # means and variances, in the same order.
        world = dist.get_world_size()
        rank = dist.get_rank()
        own = torch.stack((mean, variance))[None]
        rows = all_reduce(F.pad(own, (0, 0, 0, 0, rank, world - rank - 1)))
        means, variances = rows.unbind(dim=1)

        # Total variance = mean of the workers' variances + variance of their means. The textbook
        # E[x^2] - E[x]^2 would subtract two large numbers.
        mean_of_all = means.mean(dim=0)
        variance_of_all = (variances + (means - mean_of_all).square()).mean(dim=0)

        # As nn.BatchNorm2d: running statistics have the unbiased variance.
        count = world * (x.numel() // x.shape[1])
        self._update_running(mean_of_all.detach(), variance_of_all.detach() * (count / (count - 1)))
        scale = self.weight * torch.rsqrt(variance_of_all + self.eps)
        shift = self.bias - mean_of_all * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None, "synchronize copies layers that have statistics"
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def synchronize(module: nn.Module) -> None:
    """Replace every ``nn.BatchNorm2d`` in a module by a ``SyncedBatchNorm`` with the same
    parameters, statistics and name."""
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
