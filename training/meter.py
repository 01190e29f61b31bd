"""Measure what a run costs: shares of its time, arithmetic per second, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from corrfractal import CorrFractal
from corrfractal.network.correspondence import draw_densities
from corrfractal.runtime.process import peak_rss_mb

from .config import REFERENCES, TrainingConfig
from .step import StepResult

SCALARS = ("loss", "loss_a", "loss_c", "error", "copy_error", "gradient_norm")
# Pixels. The cost of a network is measured on frames of this side: it is proportional to the area.
SMALL_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """The time of one step of one worker.

    Attributes:
        samples: of the worker's share.
        step_seconds: of the step, data wait included.
        data_wait_seconds: of them, waiting for data.
    """

    samples: float
    step_seconds: float
    data_wait_seconds: float


class Meter:
    """Means of the logged scalars over all workers, and shares of the time, since the last log
    line.

    Args:
        config: of the run.
        device: of this worker.
        world: number of workers.
        macs: multiply-adds of a sample, forward and backward; 0: their rates are not measured.
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
        """Measure time beside the steps: ``data_wait``, ``checkpoint_stall`` or ``evaluation``."""
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
        """Means, rates and shares of the time since the last call, by name."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        means = (self._sums / self._steps).tolist()
        values: dict[str, float] = dict(zip(SCALARS, means, strict=True))

        rate = self._steps * self._batch_size / seconds
        values["samples_per_second"] = rate
        values["workers"] = float(self._world)
        for name, spent in self._spent.items():
            if spent or name != "evaluation":
                values[name] = spent / seconds
        if self._macs:
            values["gmac_per_second"] = rate * self._macs / 1e9
            values["share_of_peak"] = rate * self._macs / self._peak
        values["peak_memory_mb"] = peak_memory_mb(self._device)
        self._reset()
        return values


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory of this process so far, in MB: allocated on the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return peak_rss_mb()


def peak_macs_per_second(device: torch.device, precision: str) -> float:
    """Multiply-adds per second of this worker in a large matrix product: the best of five."""
    side = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    times = []
    for _ in range(6):
        started = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for a GPU
        times.append(time.perf_counter() - started)
    return side**3 / min(times[1:])  # the first one includes the start-up of the library


def macs_per_sample(config: TrainingConfig, side: int) -> float:
    """Multiply-adds of a sample of ``side`` x ``side`` pixels, forward and backward. PyTorch counts
    them on a small sample."""
    with FlopCounterMode(display=False) as counter:
        _loss(config, _network(config)).backward()
    return counter.get_total_flops() / 2 * (side / SMALL_SIDE) ** 2


def activation_bytes_per_sample(config: TrainingConfig, side: int) -> float:
    """Bytes that a sample of ``side`` x ``side`` pixels keeps until its backward pass, measured on
    a small sample.

    With ``recompute`` the stages of the backbone keep nothing. In the backward pass they are
    recomputed one at a time, so the largest of them counts.
    """
    model = _network(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}  # bytes by address
    alive: list[torch.Tensor] = []  # a freed address could be used again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    # Bytes that each stage of the backbone adds
    stage_bytes: list[int] = []

    def before(*_: object) -> None:
        stage_bytes.append(-sum(kept.values()))

    def after(*_: object) -> None:
        stage_bytes[-1] += sum(kept.values())

    backbone = model.backbone
    for stage in (backbone.stage1, backbone.stage2, backbone.stage3, backbone.stage4):
        stage.register_forward_pre_hook(before)
        stage.register_forward_hook(after)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss(config, model)
    total = sum(kept.values())
    if config.recompute:
        total -= sum(stage_bytes) - max(stage_bytes)
    return total * (side / SMALL_SIDE) ** 2


def _network(config: TrainingConfig) -> CorrFractal:
    with torch.random.fork_rng(devices=[]):
        return CorrFractal(config.network).train()


def _loss(config: TrainingConfig, model: CorrFractal) -> torch.Tensor:
    """The loss of one black sample of ``SMALL_SIDE``, on the CPU."""
    densities = draw_densities(config.network.correspondence, (0.5, 0.5))
    frames = len(REFERENCES[config.references]) + 1
    images = torch.zeros(1, frames, 3, SMALL_SIDE, SMALL_SIDE, dtype=torch.uint8)
    labels = images[:, :, 0]
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        total: torch.Tensor = model(images, labels, densities).total
    return total
