"""Shards -> registered model: the numbered chain of ``corrfractal train``.

A run is stored in its folder (``training.loop`` lists the files). Calling ``train`` again with the
same folder resumes it after any crash; with other settings it is refused.
"""

from __future__ import annotations

import json
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrfractal.common.errors import CorrFractalError, DivergedError, IntegrityError
from corrfractal.common.text import without_password
from corrfractal.files import storage
from corrfractal.files.atomic import file_sha256
from corrfractal.files.lease import Lease
from corrfractal.registry.registration import register
from corrfractal.registry.versions import ModelVersion
from inference import SERVING_FILE
from training.state.attempts import note_attempt
from training.state.driver_progress import note_previous
from training.state.recorder import deliver
from training.state.run_folder import DIVERGED, MODEL, RESULT

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
    model_file: storage.Location
    model: ModelVersion
    tracking_uri: str
    seconds: float


def train(
    shards: str | Path,
    out: storage.Location,
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
        out: folder of the run, local or a URI; an existing run is resumed.
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
        CorrFractalError: workers failed more often than Ray may restart them, or another training
            writes to the folder.
        IntegrityError: the model file of a finished run was changed.
        KeyboardInterrupt: a signal stopped the run; a checkpoint holds all steps done.
    """
    started = time.monotonic()
    bounds = workers if isinstance(workers, tuple) else (workers, workers)

    # 1. Check the request. Nothing has been written or started if it is refused.
    request, samples = check_request(shards, out, config, tracking_uri, bounds)

    # 2. Open a new run, or the one of the folder. At a URI the lease passes to the first worker.
    group = uuid.uuid4().hex
    with ExitStack() as stack:
        if storage.is_uri(request.out):
            storage.make_folder(request.out)
            stack.enter_context(Lease(request.out, "training", group))
        job = open_run(request, len(samples), bounds)

        # 3. Train, unless an earlier call has finished: then MLflow may still lack some metrics.
        if storage.kind(storage.join(job.out, RESULT)) is not None:
            deliver(job)
        else:
            note_attempt(job.out, bounds)
            note_previous(job.out)
            fit_on_ray(job, samples, bounds, group, use_gpu=use_gpu, max_failures=max_failures)
            check_finished(job.out)

    # 4. Register. A run that is registered already keeps its version.
    result = json.loads(storage.read(storage.join(job.out, RESULT)))
    model_file = storage.join(job.out, MODEL)
    version = _register(job, model_file, result)
    return TrainingResult(
        steps=result.pop("step"),
        metrics=result,
        model_file=storage.place(model_file),
        model=version,
        tracking_uri=without_password(job.tracking_uri),
        seconds=time.monotonic() - started,
    )


def check_finished(out: storage.Location) -> None:
    """Raise ``DivergedError`` if the workers left without a result."""
    # Not by the presence of `diverged`: an earlier attempt may have left it.
    if storage.kind(storage.join(out, RESULT)) is None:
        folder = storage.join(out, DIVERGED)
        diverged = json.loads(storage.read(storage.join(folder, "step.json")))
        raise DivergedError(
            f"the loss is not finite after step {diverged['step']}; its samples and a checkpoint "
            f"are in {folder}. Lower learning_rate, or look at these samples"
        )


def _register(job: TrainingJob, model_file: str, result: dict[str, Any]) -> ModelVersion:
    """Register the model file of a run; removes its hash from ``result``."""
    # Results of early versions have no hash.
    written = result.pop("model_sha256", None)
    try:
        with storage.local_copy(model_file) as copy:
            if written is not None and written != file_sha256(copy):
                raise IntegrityError(
                    f"{model_file} is not the model that this run has written, so it is not "
                    "registered: restore it, or train with another --out"
                )
            return register(
                copy,
                job.run_id,
                job.tracking_uri,
                job.shards_digest,
                serving_file=SERVING_FILE,
                run_folder=job.out,
            )
    except IntegrityError:
        raise
    except CorrFractalError as exc:
        raise CorrFractalError(
            f"training is complete and the model is {model_file}, but it is not registered: {exc}. "
            "The same command again registers it"
        ) from exc
