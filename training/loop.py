"""The training loop of one worker: batches -> steps -> metrics, pictures, checkpoints -> a model
file. Independent of Ray.

Everything that outlives the process is a file in the run's folder:

    job.json            the job; a folder never holds two different runs
    attempts.jsonl      a line per start: host, workers, code
    checkpoints/        see ``training.state.checkpoint``
    metrics.jsonl       a line per ``log_every`` steps
    messages.log        log records of the workers, which the driver shows
    owner.json          at a URI: who may write there, see ``corrfractal.files.lease``
    pictures/           frame, labels, reconstruction
    model.safetensors   at the end, with result.json
    diverged/           if the loss is not finite: a checkpoint, and the step's samples
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum

import torch
import torch.distributed as dist
from torch import nn

from corrfractal.common.logs import forwarded_records, set_process_label
from corrfractal.network.model import CorrFractal
from corrfractal.runtime.process import cpu_count
from training.data.batches import Batches
from training.data.samples import SampleIndex
from training.state.recorder import Recorder
from training.state.run_folder import RunFolder, open_run_folder
from training.state.stop import signal_received

from .config import TrainingConfig
from .job import TrainingJob
from .meter import Meter, StepTime, macs_per_sample
from .norm import synchronize
from .step import train_step


class Outcome(Enum):
    """How a worker left its loop."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    STOPPED = "stopped"


def fit(
    job: TrainingJob,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    on_step: Callable[[StepTime], None] | None = None,
    samples: SampleIndex | None = None,
    group: str | None = None,
) -> Outcome:
    """Train until ``job.total`` steps are done, from the newest intact checkpoint on.

    Every worker calls it, with the process group set up if there are several. Only rank 0 writes.

    Args:
        job: with its MLflow run.
        device: of this worker.
        rank: of this worker.
        world: number of workers.
        on_step: is called with the time of each of this worker's steps.
        samples: of the job; None: manifest and index are read.
        group: of the driver: workers of one group take the lease of a folder at a URI over from
            one another at once.

    Returns:
        The same outcome on all workers.

    Raises:
        CorrFractalError: another process trains in the same folder.
        IntegrityError: a shard is damaged.
    """
    config = job.config
    with ExitStack() as stack:
        if world > 1:
            set_process_label(f"rank {rank} @ {socket.gethostname()}")
        folder = stack.enter_context(open_run_folder(job.out, rank, group))
        stack.enter_context(forwarded_records(folder.messages))

        # Network, optimiser and data, as after the newest checkpoint
        model, optimizer = build(config, device, world)
        first = _resume(folder, model, optimizer, rank, world)
        batches = Batches(job.shards, config, rank, world, samples=samples)
        network: nn.Module = model
        if world > 1:
            # Buffers need no broadcast: batch statistics are those of all workers already.
            network = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

        recorder = None
        macs = 0.0
        if rank == 0:
            recorder = stack.enter_context(Recorder(job, folder, first, model, optimizer))
            macs = macs_per_sample(config, batches.side)
        meter = Meter(config, device, world, macs, on_step)  # from here on time counts

        stream = batches.iterate(first, job.total, device)
        for step in range(first, job.total):
            with meter.spending("data_wait"):
                batch = next(stream).to(device)
            result = train_step(network, optimizer, batch, step, job.total, config)
            done = step + 1

            # One reduction makes all workers agree on whether to continue. After the last step
            # there is nothing to stop.
            stop_requested = signal_received() or (rank == 0 and folder.stop_requested())
            finite, stopping = meter.add(result, stop_requested)
            stopping = stopping and done < job.total

            if not finite:
                if recorder is not None:
                    recorder.diverged(done, batch)
                return Outcome.DIVERGED
            if recorder is not None:
                recorder.step(done, batch, result, meter, stopping=stopping)
            if stopping:
                if recorder is not None:
                    recorder.stop()
                return Outcome.STOPPED

        if recorder is not None:
            recorder.finish()
    return Outcome.FINISHED


def set_threads(workers_of_host: int) -> None:
    """Divide the CPUs of this host among its workers; with GPUs one thread launches the kernels.
    The number decides the order of sums, and with it the last digits of a run on the CPU."""
    threads = max(1, cpu_count() // workers_of_host)
    torch.set_num_threads(1 if torch.cuda.is_available() else threads)


def build(
    config: TrainingConfig, device: torch.device, world: int
) -> tuple[CorrFractal, torch.optim.Optimizer]:
    """The network with the initial weights of its seed, ready for training, and its optimiser."""
    torch.manual_seed(config.seed)
    model = CorrFractal(config.network).to(device).train()
    model.backbone.recompute = config.recompute
    if world > 1:
        synchronize(model)
    if config.compile:
        model.backbone.compile()
    return model, torch.optim.Adam(model.parameters(), lr=config.learning_rate)


def _resume(
    folder: RunFolder,
    model: CorrFractal,
    optimizer: torch.optim.Optimizer,
    rank: int,
    world: int,
) -> int:
    """Load the newest intact checkpoint, if any; returns the number of steps done.

    Rank 0 chooses it for all workers: each for itself could find another one, since the last
    process of a killed run may still be writing.
    """
    checkpoint = folder.latest_checkpoint() if rank == 0 else None
    device = next(model.parameters()).device
    step = torch.tensor([checkpoint.step if checkpoint else 0], device=device)
    if world > 1:
        dist.broadcast(step, src=0)
    if rank > 0 and step > 0:
        checkpoint = folder.checkpoint(int(step))
    if checkpoint is not None:
        model.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
    return int(step)
