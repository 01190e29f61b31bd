"""What rank 0 writes of a run: metrics, pictures, what diverged, the model. The tracking server
gets the same.

A full disk or a server that is away costs the run nothing: lines wait in memory until they can be
written and sent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from corrfractal import CorrFractal
from corrfractal.common.config import config_to_dict
from corrfractal.common.files import file_sha256, write_text
from training.data.batches import Batch
from training.job import Job, tell

from .checkpoint import Checkpoint, save_checkpoint
from .machine import ATTEMPTS, Machine
from .picture import save_picture
from .run_log import MetricLine, RunLog

LEAVING = 5.0  # seconds for the tracking server when the run was asked to leave


class Recorder:
    """Writes the folder of a job that resumes after ``first`` steps; what was written of later
    steps is dropped."""

    def __init__(self, job: Job, first: int) -> None:
        self._job, self._out = job, Path(job.out)
        self._file = MetricsFile(self._out / "metrics.jsonl", first)
        self._log = RunLog(
            job.tracking_uri, job.run_id, self._file.lines, tell=lambda text: tell(self._out, text)
        )
        self._machine = Machine(job.run_id)
        self._disk_full = False

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """A log line; the tracking server also gets what the machine does meanwhile."""
        line = MetricLine(step=step, time=time.time_ns() // 1_000_000, values=dict(values))
        self._log.metrics(replace(line, values={**values, **self._machine.sample()}))
        self._guarded(self._file.append, line)

    def picture(
        self, step: int, model: CorrFractal, batch: Batch, densities: tuple[float, float]
    ) -> None:
        """What the network makes of the step's first samples."""
        path = self._out / "pictures" / f"step-{step:08d}.png"
        if self._guarded(save_picture, path, model, batch, densities):
            self._log.artifact(path, "pictures")
        else:
            path.unlink(missing_ok=True)

    def diverged(self, checkpoint: Checkpoint, batch: Batch) -> None:
        """Leave what is needed to see why the loss is not finite."""
        save_checkpoint(self._out / "diverged", checkpoint, keep=1)
        write_text(
            self._out / "diverged" / "step.json",
            json.dumps({"step": checkpoint.step, "samples": batch.keys}),
        )
        self._log.close("FAILED")

    def leave(self) -> None:
        """The run was asked to stop for now; what the server does not take in time is sent when it
        resumes."""
        self._log.close(None, LEAVING)

    def finish(self, model: CorrFractal) -> None:
        """Write the model and the result."""
        metadata = {
            "shards_digest": self._job.shards_digest,
            "run_id": self._job.run_id,
            "steps": str(self._job.total),
            "training": json.dumps(config_to_dict(self._job.config), sort_keys=True),
        }
        model.save(self._out / "model.safetensors", metadata)
        self._file.flush()
        for file in (self._file.path, self._out / ATTEMPTS):
            if file.exists():
                self._log.artifact(file)
        self._log.close("FINISHED")
        facts = {
            "step": self._job.total,
            "model_sha256": file_sha256(self._out / "model.safetensors"),
        }
        write_text(self._out / "result.json", json.dumps({**self._file.lines[-1].values, **facts}))

    def _guarded(self, write: Callable[..., None], *arguments: object) -> bool:
        """Do what may fail for want of room; tell of it once."""
        try:
            write(*arguments)
        except OSError as exc:
            if not self._disk_full:
                tell(
                    self._out,
                    f"warning: cannot write to {self._out} ({exc.strerror or exc}); training goes "
                    "on",
                )
            self._disk_full = True
            return False
        self._disk_full = False
        return True


def deliver(job: Job) -> None:
    """Send what the tracking server missed of a run that has finished, if it missed anything."""
    path = Path(job.out) / "metrics.jsonl"
    log = RunLog(job.tracking_uri, job.run_id, read_lines(path, job.total))
    log.artifact(path)
    log.close("FINISHED")


class MetricsFile:
    """``metrics.jsonl``: a line per log line, in order. What cannot be written now is written with
    the next line."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.lines: list[MetricLine] = read_lines(path, first)
        text = "".join(map(_text, self.lines))
        write_text(path, text)
        self._written, self._end = len(self.lines), len(text)

    def append(self, line: MetricLine) -> None:
        """Add a line.

        Raises:
            OSError: no room; it is kept for the next call.
        """
        self.lines.append(line)
        self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        text = "".join(_text(line) for line in self.lines[self._written :]).encode()
        with self.path.open("r+b") as file:
            file.truncate(self._end)  # a full disk takes part of a line
            file.seek(self._end)
            file.write(text)
        self._written, self._end = len(self.lines), self._end + len(text)


def read_lines(path: Path, last: int) -> list[MetricLine]:
    """The whole lines of a metrics file up to a step."""
    found = []
    for text in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if text.endswith("\n") and (values := json.loads(text))["step"] <= last:
            found.append(
                MetricLine(step=values.pop("step"), time=values.pop("time"), values=values)
            )
    return found


def _text(line: MetricLine) -> str:
    return json.dumps({"step": line.step, "time": line.time, **line.values}) + "\n"
