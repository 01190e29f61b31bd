"""``train --dry-run``: every check of a run, and an estimate of its cost, in seconds and without a
cluster.

Nothing is started or written, not even the run's folder.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from corrfractal import CorrFractal
from corrfractal.common.console import say
from corrfractal.common.errors import CorrFractalError, IntegrityError
from corrfractal.files import storage
from training.data.batches import Batches
from training.data.fetch import epoch_fetch
from training.data.samples import SampleIndex
from training.state.run_folder import steps_at

from .config import TrainingConfig
from .meter import activation_bytes_per_sample, macs_per_sample
from .request import check_request

INTERPRETER_BYTES = 0.75e9  # PyTorch, MLflow and Ray in an idle worker on the CPU
STATE_COPIES = 4  # weights, gradients, and Adam's two moments
FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would be.

    Attributes:
        samples: clips that are long enough.
        shards: number of shards.
        shards_gb: their size.
        steps: length of the run.
        epochs: the same in passes over the data.
        resumes_at: steps that an existing run has done, by its newest checkpoint.
        workers: least and most.
        samples_per_pass: samples that a worker holds at a time, with the least workers.
        parameters: number of weights.
        gmac_per_sample: multiply-adds of a sample, forward and backward, 10^9.
        memory_gb: estimate of a worker's memory.
        memory_available_gb: free memory for each worker; 0 if it is unknown.
        cache_gb_needed: disk space for remote shards, if all workers run on one host.
        epoch_fetch: bytes that 1, 4 and 16 hosts fetch in an epoch, in units of the data; None
            where the batch cannot be divided among so many.
        seconds: duration of the dry run.
    """

    samples: int
    shards: int
    shards_gb: float
    steps: int
    epochs: float
    resumes_at: int
    workers: tuple[int, int]
    samples_per_pass: int
    parameters: int
    gmac_per_sample: float
    memory_gb: float
    memory_available_gb: float
    cache_gb_needed: float
    epoch_fetch: dict[str, float | None]
    seconds: float

    def print_summary(self) -> dict[str, Any]:
        """Print it for the user, and return it as plain values."""
        say(f"{self.samples} clips in {self.shards} shards, {self.shards_gb:.2f} GB: complete")

        start = f", resuming after step {self.resumes_at}" if self.resumes_at else ""
        say(f"{self.steps} steps, {self.epochs:.2f} passes over the data{start}")

        least, most = self.workers
        workers = str(most) if least == most else f"{least} to {most}"
        say(f"{workers} workers, {self.samples_per_pass} samples each at a time")
        say(
            f"{self.parameters / 1e6:.2f} million weights, {self.gmac_per_sample:.1f} GMAC per "
            "sample and step"
        )

        available = f" of {self.memory_available_gb:.2f} GB" if self.memory_available_gb else ""
        say(f"about {self.memory_gb:.2f} GB{available} for each worker")
        if self.cache_gb_needed:
            say(f"{self.cache_gb_needed:.2f} GB of a host's disk for fetched shards")
        fetches = [
            f"{hosts} hosts {'(batch not divisible)' if ratio is None else f'{ratio:.2f} x'}"
            for hosts, ratio in self.epoch_fetch.items()
        ]
        say(f"bytes fetched in an epoch, of the data: {', '.join(fetches)}")
        say(f"nothing was started or written ({self.seconds:.1f} s)")
        return asdict(self)


def dry_run(
    shards: str | Path,
    out: storage.Location,
    config: TrainingConfig,
    bounds: tuple[int, int],
    tracking_uri: str | None,
    *,
    use_gpu: bool = False,
) -> DryRun:
    """Check a call of ``training.run.train``, and estimate its cost.

    Raises:
        CallError: the call is wrong; the same error as of ``train``.
        IntegrityError: a shard is missing, its size differs from the manifest's, or the first
            sample is unreadable.
        CorrFractalError: it will not fit into memory.
    """
    started = time.monotonic()
    job, samples = check_request(shards, out, config, tracking_uri, bounds)
    config = job.config
    _check_files(job.shards, samples)
    batches = Batches(job.shards, config, samples=samples)

    # Memory of a worker, when the fewest workers share the batch
    per_pass = config.batch_size // config.accumulate // bounds[0]
    parameters = sum(p.numel() for p in CorrFractal(config.network).parameters())
    memory = per_pass * activation_bytes_per_sample(config, batches.side)
    memory += STATE_COPIES * FLOAT32_BYTES * parameters
    available = _available_bytes(use_gpu)
    if not use_gpu:
        # All workers share the machine, and each has an interpreter.
        memory += INTERPRETER_BYTES
        available /= bounds[1]

    # Two windows of each lane: one in use, the next being fetched.
    cache_bytes = 0
    if storage.is_uri(job.shards):
        epoch = batches.order.epoch(0)
        cached_shards = min(2 * epoch.lanes * epoch.per_window, len(samples.sizes))
        cache_bytes = cached_shards * int(samples.sizes.max())
    fetched = epoch_fetch(batches.order, batches.shard_bytes(), config.accumulate)
    data_bytes = int(samples.sizes.sum())

    steps_done = steps_at(job.out)
    result = DryRun(
        samples=len(batches),
        shards=len(samples.sizes),
        shards_gb=data_bytes / 1e9,
        steps=job.total,
        epochs=job.total * config.batch_size / len(batches),
        resumes_at=steps_done[-1] if steps_done else 0,
        workers=bounds,
        samples_per_pass=per_pass,
        parameters=parameters,
        gmac_per_sample=macs_per_sample(config, batches.side) / 1e9,
        memory_gb=memory / 1e9,
        memory_available_gb=available / 1e9,
        cache_gb_needed=cache_bytes / 1e9,
        epoch_fetch={
            str(hosts): None if count is None else count / data_bytes
            for hosts, count in fetched.items()
        },
        seconds=time.monotonic() - started,
    )
    if available and memory > available:
        raise CorrFractalError(
            f"a worker would take about {result.memory_gb:.1f} GB and has "
            f"{result.memory_available_gb:.1f} GB: set recompute=true, accumulate=2 or more, a "
            "smaller crop, or fewer workers on this machine"
        )
    return result


def _check_files(shards: str, samples: SampleIndex) -> None:
    """Check that every shard exists and, on local disks, has its size. Hashes are checked when
    training reads it."""
    present = set(storage.listing(shards)[0])
    for number in range(len(samples.names)):
        shard = samples.shard(number)
        location = storage.join(shards, shard.name)
        if shard.name not in present:
            raise IntegrityError(f"{location} is missing: run `corrfractal precompute` again")
        if not storage.is_uri(location) and Path(location).stat().st_size != shard.bytes:
            raise IntegrityError(f"{location} is incomplete: run `corrfractal precompute` again")


def _available_bytes(use_gpu: bool) -> float:
    """Free memory of the GPU, or of this machine; 0 if it is unknown."""
    if use_gpu:
        return float(torch.cuda.mem_get_info()[0])
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 0.0
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return float(fields["MemAvailable"].split()[0]) * 1024
