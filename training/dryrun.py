"""A dry launch: everything that would be checked, and what the run would need, in seconds, without
a cluster.

Nothing is started and nothing is written, not even the folder of the run.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from corrfractal import CorrFractal
from corrfractal.common import storage
from corrfractal.common.console import say
from corrfractal.common.errors import CorrFractalError, IntegrityError
from corrfractal.shards.manifest import load_manifest
from training.data.batches import Batches
from training.state.checkpoint import latest_checkpoint

from .config import TrainingConfig
from .job import TrainingJob
from .meter import activation_bytes_per_sample, macs_per_sample
from .request import check_request

# bytes: PyTorch, MLflow and Ray in a worker on the CPU, before it does anything
INTERPRETER = 0.75e9
STATE = 4  # weights, gradients, and Adam's two moments


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would be. Memory is per worker, bytes; ``gmac_per_sample`` forward and backward."""

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
    seconds: float

    def told(self) -> dict[str, Any]:
        """Say it, and give it as plain values."""
        say(f"{self.samples} clips in {self.shards} shards, {self.shards_gb:.2f} GB: all there")
        start = f", going on after step {self.resumes_at}" if self.resumes_at else ""
        say(f"{self.steps} steps, {self.epochs:.2f} passes over the data{start}")
        least, most = self.workers
        say(
            f"{most if least == most else f'{least} to {most}'} workers, {self.samples_per_pass} "
            "samples each at a time"
        )
        say(
            f"{self.parameters / 1e6:.2f} million weights, {self.gmac_per_sample:.1f} GMAC per "
            "sample and step"
        )
        room = f" of {self.memory_available_gb:.2f} GB" if self.memory_available_gb else ""
        say(f"about {self.memory_gb:.2f} GB{room} for each worker")
        if self.cache_gb_needed:
            say(f"{self.cache_gb_needed:.2f} GB of each host's disk for fetched shards")
        say(f"nothing was started or written ({self.seconds:.1f} s)")
        return asdict(self)


def dry_run(
    shards: str | Path,
    out: Path,
    config: TrainingConfig,
    bounds: tuple[int, int],
    tracking_uri: str | None,
    *,
    use_gpu: bool = False,
) -> DryRun:
    """Check a call of ``training.run.train``, and estimate what it needs.

    Raises:
        CallError: the call is wrong, as ``train`` would say it.
        IntegrityError: a shard is missing, of another size than the manifest says, or the first
        sample is unreadable.
        CorrFractalError: it will not fit into memory.
    """
    started = time.monotonic()
    job = check_request(shards, out, config, tracking_uri, bounds)
    config, manifest = job.config, load_manifest(job.shards)
    _check_files(job)
    batches = Batches(job.shards, config)
    per_pass = config.batch_size // config.accumulate // bounds[0]
    parameters = sum(p.numel() for p in CorrFractal(config.network).parameters())
    activations = activation_bytes_per_sample(config, batches.side)
    memory = per_pass * activations + STATE * 4 * parameters + (0 if use_gpu else INTERPRETER)
    available = _available(use_gpu) / (1 if use_gpu else bounds[1])
    checkpoint = latest_checkpoint(Path(job.out) / "checkpoints")
    largest = max(entry.bytes for entry in manifest.shards)
    remote = storage.is_uri(job.shards)
    result = DryRun(
        samples=len(batches),
        shards=len(manifest.shards),
        shards_gb=sum(entry.bytes for entry in manifest.shards) / 1e9,
        steps=job.total,
        epochs=job.total * config.batch_size / len(batches),
        resumes_at=checkpoint.step if checkpoint else 0,
        workers=bounds,
        samples_per_pass=per_pass,
        parameters=parameters,
        gmac_per_sample=macs_per_sample(config, batches.side) / 1e9,
        memory_gb=memory / 1e9,
        memory_available_gb=available / 1e9,
        cache_gb_needed=min(2 * config.shuffle_window, len(manifest.shards)) * largest / 1e9
        if remote
        else 0.0,
        seconds=time.monotonic() - started,
    )
    if available and memory > available:
        raise CorrFractalError(
            f"a worker would take about {result.memory_gb:.1f} GB and has "
            f"{result.memory_available_gb:.1f} GB: set recompute=true, accumulate=2 or more, a "
            "smaller crop, or fewer workers on this machine"
        )
    return result


def _check_files(job: TrainingJob) -> None:
    """Presence of every shard, and on local disks its size; hashes are checked when training reads
    them."""
    present = set(storage.listing(job.shards)[0])
    for entry in load_manifest(job.shards).shards:
        location = storage.join(job.shards, entry.name)
        if entry.name not in present:
            raise IntegrityError(f"{location} is missing: run `corrfractal precompute` again")
        if not storage.is_uri(location) and Path(location).stat().st_size != entry.bytes:
            raise IntegrityError(f"{location} is not whole: run `corrfractal precompute` again")


def _available(use_gpu: bool) -> float:
    """Bytes of a GPU, or of this machine that are free; 0 where that cannot be told."""
    if use_gpu:
        return float(torch.cuda.mem_get_info()[0])
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 0.0
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return float(fields["MemAvailable"].split()[0]) * 1024
