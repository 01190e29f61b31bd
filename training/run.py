"""Shards -> registered model: the numbered chain of ``corrfractal train``.

A run is stored in its folder (``training.loop`` lists the files). Calling ``train`` again with the
same folder resumes it after any crash; with other settings it is refused.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrfractal.common.errors import CorrFractalError, DivergedError, IntegrityError
from corrfractal.common.text import without_password
from corrfractal.files.atomic import file_sha256
from corrfractal.registry.registration import register
from corrfractal.registry.versions import ModelVersion
from inference import SERVING_FILE
from training.state.attempts import note_attempt
from training.state.driver_progress import note_previous
from training.state.recorder import deliver

from .config import TrainingConfig
from .job import TrainingJob
from .ray_backend import fit_on_ray
from .request import check_request, open_run

MAX_FAILURES = 3


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished run.

    Attributes:
        steps: length of the run.
        metrics: of its last log line.
        model_file: the trained network.
        model: the registered version.
        tracking_uri: MLflow store, without password.
        seconds: duration of this call.
    """

    steps: int
    metrics: dict[str, float]
    model_file: Path
    model: ModelVersion
    tracking_uri: str
    seconds: float


def train(
    shards: str | Path,
    out: Path,
    config: TrainingConfig,
    *,
    tracking_uri: str | None,
    workers: int | tuple[int, int] = 2,
    use_gpu: bool = False,
    max_failures: int = MAX_FAILURES,
) -> TrainingResult:
    """Train on a folder of shards and register the result.

    Args:
        shards: folder with ``manifest.json``, local or a URI.
        out: folder of the run; an existing run is resumed.
        config: how to train.
        tracking_uri: MLflow store; None is that of the run in ``out`` or, for a new run,
            ``mlflow.db`` in the working folder.
        workers: DDP processes, among which ``config.batch_size`` is divided; (least, most) for as
            many as the cluster has room for.
        use_gpu: a GPU and nccl for each worker, instead of a CPU and gloo.
        max_failures: how often Ray restarts the workers after a failure; -1: without limit.

    Raises:
        CallError: there are no such shards, clips are too short, or settings contradict each other
            or the folder.
        BoundExceededError: the labels are collapsed, static or noise.
        DivergedError: the loss is no longer finite.
        CorrFractalError: workers failed more often than Ray may restart them.
        IntegrityError: the model file of a finished run was changed.
        KeyboardInterrupt: a signal stopped the run; a checkpoint holds all steps done.
    """
    started = time.monotonic()
    bounds = workers if isinstance(workers, tuple) else (workers, workers)

    # 1. Check the request. Nothing has been written or started if it is refused.
    request, samples = check_request(shards, out, config, tracking_uri, bounds)

    # 2. Open a new run, or the one of the folder.
    job = open_run(request, len(samples), bounds)

    # 3. Train, unless an earlier call has finished: then MLflow may still lack some metrics.
    folder = Path(job.out)
    if (folder / "result.json").exists():
        deliver(job)
    else:
        note_attempt(folder, bounds)
        note_previous(folder)
        fit_on_ray(job, samples, bounds, use_gpu=use_gpu, max_failures=max_failures)
        check_finished(folder)

    # 4. Register. A run that is registered already keeps its version.
    result = json.loads((folder / "result.json").read_text())
    model_file = folder / "model.safetensors"
    version = _register(job, model_file, result)
    return TrainingResult(
        steps=result.pop("step"),
        metrics=result,
        model_file=model_file,
        model=version,
        tracking_uri=without_password(job.tracking_uri),
        seconds=time.monotonic() - started,
    )


def check_finished(out: Path) -> None:
    """Raise ``DivergedError`` if the workers left without a result."""
    # Not by the presence of `diverged`: an earlier attempt may have left it.
    if not (out / "result.json").exists():
        diverged = json.loads((out / "diverged" / "step.json").read_text())
        raise DivergedError(
            f"the loss is not finite after step {diverged['step']}; its samples and a checkpoint "
            f"are in {out}/diverged. Lower learning_rate, or look at these samples"
        )


def _register(job: TrainingJob, model_file: Path, result: dict[str, Any]) -> ModelVersion:
    """Register the model file of a run; removes its hash from ``result``."""
    # Results of early versions have no hash.
    written = result.pop("model_sha256", None)
    if written is not None and written != file_sha256(model_file):
        raise IntegrityError(
            f"{model_file} is not the model that this run has written, so it is not registered: "
            "restore it, or train with another --out"
        )
    try:
        return register(
            model_file, job.run_id, job.tracking_uri, job.shards_digest, serving_file=SERVING_FILE
        )
    except CorrFractalError as exc:
        raise CorrFractalError(
            f"training is complete and the model is {model_file}, but it is not registered: {exc}. "
            "The same command again registers it"
        ) from exc
