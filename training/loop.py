"""The training loop of one worker: batches -> steps -> metrics, pictures, checkpoints -> a model file. Knows no Ray.

Everything that outlives the process is a file in the run's folder:

    job.json            what is trained; the same folder never holds two different runs
    checkpoints/        see ``training.checkpoint``
    metrics.jsonl       one line per ``log_every`` steps
    pictures/           frame, labels, reconstruction
    model.safetensors   at the end, with result.json
    diverged/           only if the loss stopped being finite: checkpoint and sample keys of that step
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from corrfractal.config import Config, config_to_dict, digest
from corrfractal.errors import CorrFractalError
from corrfractal.manifest import SampleRef, load_manifest, sample_index
from corrfractal.model import CorrFractal
from corrfractal.runtime import write_text

from .batches import Batch, Batches
from .checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from .config import TrainingConfig
from .machine import ATTEMPTS, Machine
from .picture import save_picture
from .step import StepResult, learning_rate, train_step
from .tracking import RunLog

PATIENCE = 60.0  # seconds to wait for the lock of a run
SCALARS = ("loss", "loss_a", "loss_c", "error", "copy_error")


@dataclass(frozen=True, kw_only=True)
class Job(Config):
    """What is trained, on which data, and where it is written."""

    shards: str
    """Folder of the shards."""
    shards_digest: str
    """Digest of their manifest."""
    out: str
    """Folder of the run."""
    config: TrainingConfig
    """How to train."""
    total: int
    """Length of the run in steps."""
    tracking_uri: str
    """MLflow store."""
    run_id: str
    """MLflow run."""


def fit(job: Job, device: torch.device, rank: int = 0, world: int = 1) -> None:
    """Train until ``job.total`` steps are done, going on from the newest whole checkpoint.

    Called by every worker with the process group already up. Rank 0 alone writes.
    """
    out, config = Path(job.out), job.config
    with _sole_writer(out) if rank == 0 else nullcontext():
        torch.manual_seed(config.seed)
        model = CorrFractal(config.network).to(device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        first = _resume(out, model, optimizer)
        recorder = _Recorder(job, first) if rank == 0 else None

        batches = Batches(Path(job.shards), usable_samples(Path(job.shards), config), config, rank, world)
        wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
        meter = _Meter(config.batch_size)
        stream = batches.iterate(first, job.total)
        for step in range(first, job.total):
            with meter.waiting():
                batch = next(stream).to(device)
            result = train_step(wrapped, optimizer, batch, step, job.total, config)
            done = step + 1
            finite = meter.add(result, world)
            if recorder is None:
                if not finite:
                    return
                continue
            if not finite:
                recorder.diverged(_checkpoint(job, done, model, optimizer), batch)
                return
            recorder.after_step(done, model, batch, result, meter)
            if done % config.checkpoint_every == 0 or done == job.total:
                checkpoint = _checkpoint(job, done, model, optimizer)
                save_checkpoint(out / "checkpoints", checkpoint, config.keep_checkpoints)
        if recorder is not None:
            recorder.finish(model)


def usable_samples(shards: Path, config: TrainingConfig) -> list[SampleRef]:
    """The clips that hold enough stored frames for the references and a target."""
    index = sample_index(shards, load_manifest(shards))
    return [sample for sample in index if sample.frames >= config.clip_frames_needed]


class _Meter:
    """Sums of the logged scalars since the last log line, over all workers, and where the time went."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._reset()

    def _reset(self) -> None:
        self._sums, self._steps, self._wait, self._since = torch.zeros(len(SCALARS)), 0, 0.0, time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._wait += time.monotonic() - started

    def add(self, result: StepResult, world: int) -> bool:
        """Add a step; returns, on all workers alike, whether its loss was finite."""
        values = torch.stack([_scalar(result, name) for name in SCALARS])
        if world > 1:
            dist.all_reduce(values)
        values = values.cpu() / world
        self._sums += values
        self._steps += 1
        return bool(torch.isfinite(values).all())

    def read(self) -> dict[str, float]:
        """Means since the last call."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        means = dict(zip(SCALARS, (self._sums / self._steps).tolist(), strict=True))
        means["samples_per_second"] = self._steps * self._batch_size / seconds
        means["data_wait"] = self._wait / seconds
        self._reset()
        return means


def _scalar(result: StepResult, name: str) -> Tensor:
    value: Tensor = getattr(result, name)
    return value.float()


class _Recorder:
    """What rank 0 writes."""

    def __init__(self, job: Job, first: int) -> None:
        self._job, self._out = job, Path(job.out)
        self._log = RunLog(job.tracking_uri, job.run_id)
        self._machine = Machine(job.run_id)
        self._metrics_file = self._out / "metrics.jsonl"
        self._last: dict[str, float] = {}
        if self._metrics_file.exists():
            lines = self._metrics_file.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= first]
            write_text(self._metrics_file, "".join(kept))

    def after_step(self, done: int, model: CorrFractal, batch: Batch, result: StepResult, meter: _Meter) -> None:
        total, config = self._job.total, self._job.config
        if done % config.log_every == 0 or done == total:
            self._last = {**meter.read(), "learning_rate": learning_rate(done - 1, total, config)}
            with self._metrics_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": done, **self._last}) + "\n")
            self._log.metrics(done, {**self._last, **self._machine.sample()})
        if done % config.picture_every == 0 or done == total:
            path = self._out / "pictures" / f"step-{done:08d}.png"
            save_picture(path, model, batch, result.densities)
            self._log.artifact(path, "pictures")

    def diverged(self, checkpoint: Checkpoint, batch: Batch) -> None:
        save_checkpoint(self._out / "diverged", checkpoint, keep=1)
        write_text(self._out / "diverged" / "step.json", json.dumps({"step": checkpoint.step, "samples": batch.keys}))
        self._log.close("FAILED")

    def finish(self, model: CorrFractal) -> None:
        if not self._last:  # nothing was left to do: the last line is in the file
            self._last = json.loads(self._metrics_file.read_text().splitlines()[-1])
        metadata = {
            "shards_digest": self._job.shards_digest,
            "run_id": self._job.run_id,
            "steps": str(self._job.total),
            "training": json.dumps(config_to_dict(self._job.config), sort_keys=True),
        }
        model.save(self._out / "model.safetensors", metadata)
        for file in (self._metrics_file, self._out / ATTEMPTS):
            if file.exists():
                self._log.artifact(file)
        self._log.close("FINISHED")
        write_text(self._out / "result.json", json.dumps({**self._last, "step": self._job.total}))


def _checkpoint(job: Job, step: int, model: CorrFractal, optimizer: torch.optim.Optimizer) -> Checkpoint:
    return Checkpoint(
        step=step,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        shards_digest=job.shards_digest,
        config_digest=digest(config_to_dict(job.config)),
        run_id=job.run_id,
    )


def _resume(out: Path, model: CorrFractal, optimizer: torch.optim.Optimizer) -> int:
    """Put the newest whole checkpoint into model and optimiser; returns the steps done."""
    checkpoint = latest_checkpoint(out / "checkpoints")
    if checkpoint is None:
        return 0
    model.load_state_dict(checkpoint.model)
    optimizer.load_state_dict(checkpoint.optimizer)
    return checkpoint.step


@contextmanager
def _sole_writer(out: Path) -> Iterator[None]:
    """Hold the run's lock. The workers of a killed driver live a few seconds longer: wait for them, then give up."""
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
