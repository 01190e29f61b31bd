"""The training loop of one worker: batches -> steps -> metrics, pictures, checkpoints -> a model
file. Knows no Ray.

Everything that outlives the process is a file in the run's folder:

    job.json            what is trained; the same folder never holds two different runs
    checkpoints/        see ``training.state.checkpoint``
    metrics.jsonl       one line per ``log_every`` steps
    messages.log        what the workers had to tell
    pictures/           frame, labels, reconstruction
    model.safetensors   at the end, with result.json
    diverged/           only if the loss stopped being finite: checkpoint and sample keys of that step
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from corrfractal.common.config import config_to_dict, digest
from corrfractal.common.errors import CorrFractalError
from corrfractal.network.model import CorrFractal
from inference.benchmarks.davis import score_network
from training.data.batches import Batches
from training.state.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    checkpoint_name,
    latest_checkpoint,
    read_checkpoint,
)
from training.state.recorder import Recorder
from training.state.stop import signalled, stop_file

from .config import TrainingConfig
from .job import Job, tell
from .meter import Meter, StepTime, macs_per_sample
from .norm import synchronize
from .step import learning_rate, train_step

PATIENCE = 60.0  # seconds to wait for the lock of a run


class Outcome(Enum):
    """How a worker left its loop."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    STOPPED = "stopped"


def fit(
    job: Job,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    watch: Callable[[StepTime], None] | None = None,
) -> Outcome:
    """Train until ``job.total`` steps are done, going on from the newest whole checkpoint.

    Called by every worker with the process group already up. Rank 0 alone writes; ``watch`` sees
    every worker's steps.
    """
    out, config = Path(job.out), job.config
    tells = partial(tell, out)
    with (
        _sole_writer(out) if rank == 0 else nullcontext(),
        CheckpointWriter(out / "checkpoints", config.keep_checkpoints, tells) as writer,
    ):
        model, optimizer = build(config, device, world)
        first = _resume(out, model, optimizer, rank, world)
        batches = Batches(job.shards, config, rank, world)
        wrapped: nn.Module = model
        # Batch statistics are those of all workers: no buffer needs to be sent around
        if world > 1:
            wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

        recorder = Recorder(job, first) if rank == 0 else None
        evaluated = rank == 0 and config.evaluate_on is not None
        meter = Meter(
            config, device, world, macs_per_sample(config, batches.side) if rank == 0 else 0, watch
        )
        stream = batches.iterate(first, job.total)
        for step in range(first, job.total):
            with meter.spending("data_wait"):
                batch = next(stream).to(device)
            result = train_step(wrapped, optimizer, batch, step, job.total, config)
            done, last = step + 1, step + 1 == job.total
            finite, leave = meter.add(
                result, signalled() or (rank == 0 and stop_file(out).exists())
            )
            leave = leave and not last
            if recorder is not None:
                checkpoint = partial(_checkpoint, job, done, model, optimizer)
                if not finite:
                    recorder.diverged(checkpoint(), batch)
                    return Outcome.DIVERGED
                if done % config.checkpoint_every == 0 or last or leave:
                    with meter.spending("checkpoint_stall"):
                        writer.save(checkpoint())
                scores: dict[str, float] = {}
                if evaluated and (done % config.evaluate_every == 0 or last):
                    with meter.spending("evaluation"):
                        scores = score_network(_copy(model), Path(config.evaluate_on or ""))
                if done % config.log_every == 0 or last or scores:
                    rate = learning_rate(step, job.total, config)
                    recorder.metrics(done, {**meter.read(), "learning_rate": rate, **scores})
                if done % config.picture_every == 0 or last:
                    recorder.picture(done, model, batch, result.densities)
                if leave:
                    writer.join()
                    recorder.leave()
            if not finite:
                return Outcome.DIVERGED
            if leave:
                return Outcome.STOPPED
        writer.join()
        if recorder is not None:
            recorder.finish(model)
    return Outcome.FINISHED


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


def _copy(model: CorrFractal) -> CorrFractal:
    """The network as it is now, on its own: what is done with it leaves the one in training alone."""
    copy = CorrFractal(model.config).to(next(model.parameters()).device)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def _checkpoint(
    job: Job, step: int, model: CorrFractal, optimizer: torch.optim.Optimizer
) -> Checkpoint:
    return Checkpoint(
        step=step,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        shards_digest=job.shards_digest,
        config_digest=digest(config_to_dict(job.config)),
        run_id=job.run_id,
    )


def _resume(
    out: Path, model: CorrFractal, optimizer: torch.optim.Optimizer, rank: int, world: int
) -> int:
    """Put the newest whole checkpoint into model and optimiser, rank 0's choice on all; returns the
    steps done."""
    folder = out / "checkpoints"
    checkpoint = latest_checkpoint(folder) if rank == 0 else None
    step = torch.tensor(
        [checkpoint.step if checkpoint else 0], device=next(model.parameters()).device
    )
    if world > 1:
        dist.broadcast(step, src=0)
    if rank > 0 and step > 0:
        checkpoint = read_checkpoint(folder / checkpoint_name(int(step)))
    if checkpoint is not None:
        model.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
    return int(step)


@contextmanager
def _sole_writer(out: Path) -> Iterator[None]:
    """Hold the run's lock. The workers of a killed driver live a few seconds longer: wait for them,
    then give up."""
    deadline = time.monotonic() + PATIENCE
    with (out / ".lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    message = f"another training is writing to {out}: stop it, or use another --out"
                    raise CorrFractalError(message) from exc
                time.sleep(0.5)
        yield
