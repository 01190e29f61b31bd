"""Everything that rank 0 writes of a run, into its folder and to MLflow: checkpoints, metrics,
pictures, the model; after divergence the step's samples.

A full disk or an unreachable tracking server is reported and does not stop the run. Without a
tracking store (``training.local``) nothing is sent, and MLflow is not imported.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from corrfractal import CorrFractal
from corrfractal.common.config import config_to_dict, digest
from corrfractal.files import storage
from corrfractal.files.atomic import file_sha256, write_text
from corrfractal.files.mirror import private_folder
from inference.benchmarks.davis import score_network
from training.data.reading import Batch
from training.job import TrainingJob
from training.meter import Meter
from training.step import StepResult, learning_rate

from .attempts import ATTEMPTS
from .checkpoint import Checkpoint, CheckpointWriter, save_checkpoint
from .metrics_file import MetricLine, MetricsFile, last_line
from .picture import save_picture
from .run_folder import DIVERGED, METRICS, MODEL, PICTURES, RESULT, RunFolder
from .system_metrics import PREFIX, SystemMetrics
from .uploader import CLOSE_TIMEOUT, Uploader

STOP_TIMEOUT = 5.0  # seconds for the tracking server when a signal stopped the run

log = logging.getLogger(__name__)


class Recorder:
    """Writes what is due after each step. A context manager: checkpoints are complete when it
    exits.

    Args:
        job: with its MLflow run.
        folder: of the run.
        first: step from which the run resumes; log lines of later steps are dropped.
        model: the network, without a wrapper for data parallelism.
        optimizer: its optimiser.
    """

    def __init__(
        self,
        job: TrainingJob,
        folder: RunFolder,
        first: int,
        model: CorrFractal,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._job = job
        self._config = job.config
        self._folder = folder
        self._out = folder.local
        self._model = model
        self._optimizer = optimizer

        keep = job.config.keep_checkpoints
        self._checkpoints = CheckpointWriter(
            folder.checkpoints,
            folder.keep_local or keep,
            lambda path, hurry: folder.publish_checkpoint(path, keep, hurry),
        )
        self._metrics = MetricsFile(self._out / METRICS, first)
        self._uploader: Uploader | None = None
        self._system: SystemMetrics | None = None
        if job.tracking_uri:
            self._uploader = Uploader(job.tracking_uri, job.run_id, self._metrics.path)
            self._system = SystemMetrics(job.run_id)
        self._disk_full = False

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._checkpoints.join()

    def step(
        self, done: int, batch: Batch, result: StepResult, meter: Meter, *, stopping: bool
    ) -> None:
        """Write what is due after ``done`` steps: everything after the last one, and a checkpoint
        if the run is stopping. ``meter`` is read and reset for a log line."""
        config = self._config
        last = done == self._job.total

        scores: dict[str, float] = {}
        if config.evaluate_on is not None and (done % config.evaluate_every == 0 or last):
            with meter.spending("evaluation"):
                scores = score_network(_copy(self._model), Path(config.evaluate_on))

        # Scores are logged at once: the next log line has another step.
        if done % config.log_every == 0 or last or scores:
            rate = learning_rate(done - 1, self._job.total, config)
            self._log(done, {**meter.read(), "learning_rate": rate, **scores})

        # After the log line: a run that resumes from the checkpoint continues after it.
        if done % config.checkpoint_every == 0 or last or stopping:
            with meter.spending("checkpoint_stall"):
                self._checkpoints.save(self._checkpoint(done))

        if done % config.picture_every == 0 or last:
            self._picture(done, batch, result)

    def diverged(self, done: int, batch: Batch) -> None:
        """Write what helps to see why the loss is not finite: a checkpoint and the keys of the
        samples."""
        folder = self._out / DIVERGED
        save_checkpoint(folder, self._checkpoint(done), keep=1)
        write_text(folder / "step.json", json.dumps({"step": done, "samples": batch.keys}))
        self._folder.publish_diverged()
        self._close("FAILED")

    def stop(self) -> None:
        """Complete the checkpoint, and give the tracking server a few seconds; the resumed run
        sends what is left."""
        self._checkpoints.join()
        self._close(None, STOP_TIMEOUT)

    def finish(self) -> None:
        """Write the model, then the result, with which the run counts as finished."""
        self._checkpoints.join()
        model_file = self._out / MODEL
        metadata = {
            "shards_digest": self._job.shards_digest,
            "run_id": self._job.run_id,
            "steps": str(self._job.total),
            "training": json.dumps(config_to_dict(self._config), sort_keys=True),
        }
        self._model.save(model_file, metadata)

        self._metrics.flush()
        if self._uploader is not None:
            _add_records(self._uploader, self._out)
        self._close("FINISHED")

        line = last_line(self._metrics.path)
        assert line is not None, "the last step is always logged"
        result: dict[str, float | str] = {
            name: value for name, value in line.values.items() if not name.startswith(PREFIX)
        }
        result["step"] = self._job.total
        result["model_sha256"] = file_sha256(model_file)
        write_text(self._out / RESULT, json.dumps(result))
        self._folder.publish_result()

    def _checkpoint(self, done: int) -> Checkpoint:
        return checkpoint_of(self._job, done, self._model, self._optimizer)

    def _log(self, done: int, values: dict[str, float]) -> None:
        now = time.time_ns() // 1_000_000
        load = {} if self._system is None else self._system.sample()
        line = MetricLine(step=done, time=now, values={**values, **load})
        if self._write(self._metrics.append, line) and self._uploader is not None:
            self._uploader.new_lines()

    def _picture(self, done: int, batch: Batch, result: StepResult) -> None:
        path = self._out / PICTURES / f"step-{done:08d}.png"
        if not self._write(save_picture, path, self._model, batch, result.densities):
            path.unlink(missing_ok=True)
        elif self._uploader is not None:
            self._uploader.artifact(path, path.parent.name)

    def _close(self, status: str | None, timeout: float = CLOSE_TIMEOUT) -> None:
        if self._uploader is not None:
            self._uploader.close(status, timeout)

    def _write(self, write: Callable[..., None], *arguments: object) -> bool:
        """Whether a write succeeded. A failure, of a full disk for example, is reported once until
        the next success."""
        try:
            write(*arguments)
        except OSError as exc:
            if not self._disk_full:
                log.warning(
                    f"cannot write to {self._out} ({exc.strerror or exc}); training continues"
                )
            self._disk_full = True
            return False
        self._disk_full = False
        return True


def checkpoint_of(
    job: TrainingJob, done: int, model: CorrFractal, optimizer: torch.optim.Optimizer
) -> Checkpoint:
    """A checkpoint after ``done`` steps. It shares its tensors with model and optimiser."""
    return Checkpoint(
        step=done,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        shards_digest=job.shards_digest,
        config_digest=digest(config_to_dict(job.config)),
        run_id=job.run_id,
    )


def deliver(job: TrainingJob) -> None:
    """Send what MLflow still lacks of a finished run: its last process may have given up."""
    with private_folder() as folder:
        for name in (METRICS, ATTEMPTS):
            location = storage.join(job.out, name)
            if storage.kind(location) == "file":
                (folder / name).write_bytes(storage.read(location))
        uploader = Uploader(job.tracking_uri, job.run_id, folder / METRICS)
        _add_records(uploader, folder)
        uploader.close("FINISHED")


def _add_records(uploader: Uploader, out: Path) -> None:
    """Send the files that tell how a run went."""
    for file in (out / METRICS, out / ATTEMPTS):
        if file.exists():
            uploader.artifact(file)


def _copy(model: CorrFractal) -> CorrFractal:
    """The network in evaluation mode, without effect on the one in training."""
    copy = CorrFractal(model.config).to(next(model.parameters()).device)
    copy.load_state_dict(model.state_dict())
    return copy.eval()
