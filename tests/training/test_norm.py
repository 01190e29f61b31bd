"""Workers that share a batch normalise it as one worker would, and send back the same gradients."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from training.norm import SyncedBatchNorm, synchronize

WORLD = 2


def layer() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.BatchNorm2d(5))


def batch() -> torch.Tensor:
    # A mean far from 0
    return 50 + torch.randn(6, 3, 8, 9, generator=torch.Generator().manual_seed(2))


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    network = layer()
    synchronize(network)
    assert [type(m) for m in network].count(SyncedBatchNorm) == 2
    output = network(batch().chunk(WORLD)[rank])
    (output * torch.arange(5)[:, None, None]).square().mean().backward()
    for parameter in network.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= WORLD
    torch.save(
        {
            "output": output.detach(),
            "state": network.state_dict(),
            "gradients": [p.grad for p in network.parameters()],
        },
        f"{folder}/{rank}.pt",
    )
    dist.destroy_process_group()


def test_two_workers_normalise_and_learn_like_one(tmp_path: Path) -> None:
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=WORLD)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    alone = layer()
    output = alone(batch())
    (output * torch.arange(5)[:, None, None]).square().mean().backward()

    torch.testing.assert_close(
        torch.cat([part["output"] for part in parts]), output.detach(), rtol=1e-4, atol=1e-5
    )
    for part in parts:
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(part["state"][name], value, rtol=1e-5, atol=1e-6, msg=name)
        for ours, theirs in zip(part["gradients"], alone.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.grad, rtol=1e-3, atol=1e-4)
