"""What a run costs: where the time goes, arithmetic done and possible, memory. Measured where it
runs, not assumed."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from corrfractal import CorrFractal
from corrfractal.network.correspondence import draw_densities

from .config import REFERENCES, TrainingConfig
from .step import StepResult

SCALARS = ("loss", "loss_a", "loss_c", "error", "copy_error", "gradient_norm")
# Side of the frames that a network's cost is measured on; cost grows with the number of pixels
SMALL = 64


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """What one step of one worker took: samples of its share, seconds in all, seconds of them
    without data."""

    samples: float
    step_seconds: float
    data_wait_seconds: float


class Meter:
    """Sums of the logged scalars since the last log line, over all workers, and where the time
    went.

    Args:
        config: of the run.
        device: of this worker.
        world: number of workers.
        macs: multiply-adds of a sample, forward and backward; 0 leaves the rates of arithmetic out.
        on_step: is called with the time of each step.
    """

    def __init__(
        self,
        config: TrainingConfig,
        device: torch.device,
        world: int,
        macs: float = 0.0,
        on_step: Callable[[StepTime], None] | None = None,
    ) -> None:
        self._batch_size = config.batch_size
        self._device = device
        self._world = world
        self._macs = macs
        self._peak = world * peak_macs_per_second(device, config.precision) if macs else 0.0

        # Of the step under way
        self._on_step = on_step
        self._step_started = time.monotonic()
        self._waited = 0.0
        self._reset()

    def _reset(self) -> None:
        # Of the steps since the last log line
        self._sums = torch.zeros(len(SCALARS))
        self._steps = 0
        self._since = time.monotonic()
        self._spent = {"data_wait": 0.0, "checkpoint_stall": 0.0, "evaluation": 0.0}

    @contextmanager
    def spending(self, what: str) -> Iterator[None]:
        """Time that is not a step's: ``data_wait``, ``checkpoint_stall`` or ``evaluation``."""
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self._spent[what] += seconds
        if what == "data_wait":
            self._waited += seconds

    def add(self, result: StepResult, stop: bool) -> tuple[bool, bool]:
        """Add a step.

        Args:
            result: of this worker.
            stop: whether this worker requests the run to stop.

        Returns:
            Whether all scalars of all workers are finite, and whether any worker requests to stop.
            The same on all workers.
        """
        values = torch.stack([getattr(result, name).float() for name in SCALARS])
        votes = torch.cat([values, values.new_tensor([float(stop)])])
        if self._world > 1:
            dist.all_reduce(votes)
        votes = votes.cpu()

        # The copy to the CPU has waited for the step of all workers, on GPUs too.
        if self._on_step is not None:
            now = time.monotonic()
            self._on_step(
                StepTime(
                    samples=self._batch_size / self._world,
                    step_seconds=now - self._step_started,
                    data_wait_seconds=self._waited,
                )
            )
            self._step_started = now
            self._waited = 0.0

        values = votes[:-1] / self._world
        self._sums += values
        self._steps += 1
        return bool(torch.isfinite(values).all()), bool(votes[-1] > 0)

    def read(self) -> dict[str, float]:
        """Means, rates and shares of the time since the last call."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        means = dict(zip(SCALARS, (self._sums / self._steps).tolist(), strict=True))
        rate = self._steps * self._batch_size / seconds
        means["samples_per_second"] = rate
        means["workers"] = float(self._world)
        means |= {
            name: spent / seconds
            for name, spent in self._spent.items()
            if spent or name != "evaluation"
        }
        if self._macs:
            means["gmac_per_second"] = rate * self._macs / 1e9
            means["share_of_peak"] = rate * self._macs / self._peak
        means["peak_memory_mb"] = peak_memory_mb(self._device)
        self._reset()
        return means


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory of this process so far, MB: of the GPU where there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def peak_macs_per_second(device: torch.device, precision: str) -> float:
    """What this worker reaches in a large matrix product: the best of five."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.ones(
        side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32
    )
    times = []
    for _ in range(6):
        started = time.perf_counter()
        product = a @ a
        float(product[0, 0])  # waits for a GPU
        times.append(time.perf_counter() - started)
    return side**3 / min(times[1:])


def macs_per_sample(config: TrainingConfig, side: int) -> float:
    """Multiply-adds of a sample of ``side`` x ``side``, forward and backward, counted by PyTorch on
    a small one."""
    with FlopCounterMode(display=False) as counter:
        _loss(config, _network(config)).backward()
    return counter.get_total_flops() / 2 * (side / SMALL) ** 2


def activation_bytes_per_sample(config: TrainingConfig, side: int) -> float:
    """What a sample of ``side`` x ``side`` keeps until its backward pass, measured on a small one.

    With ``recompute`` the stages of the backbone keep nothing; in the backward pass the largest of
    them is there again.
    """
    model = _network(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    held: list[torch.Tensor] = []  # or an address would be given to the next

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    stages: list[int] = []
    for stage in (
        model.backbone.stage1,
        model.backbone.stage2,
        model.backbone.stage3,
        model.backbone.stage4,
    ):
        stage.register_forward_pre_hook(lambda *_: stages.append(-sum(kept.values())))
        stage.register_forward_hook(lambda *_: stages.append(stages.pop() + sum(kept.values())))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss(config, model)
    total = sum(kept.values()) - (sum(stages) - max(stages) if config.recompute else 0)
    return total * (side / SMALL) ** 2


def _network(config: TrainingConfig) -> CorrFractal:
    with torch.random.fork_rng(devices=[]):
        return CorrFractal(config.network).train()


def _loss(config: TrainingConfig, model: CorrFractal) -> torch.Tensor:
    densities = draw_densities(config.network.correspondence, (0.5, 0.5))
    images = torch.zeros(
        1, len(REFERENCES[config.references]) + 1, 3, SMALL, SMALL, dtype=torch.uint8
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        total: torch.Tensor = model(images, images[:, :, 0], densities).total
    return total
