"""Shards -> registered model, on Ray Train. The numbered chain of ``corrfractal train``; the only file here that
imports ray.

A run lives in its folder (``training.loop`` lists it). Calling ``train`` again with the same folder goes on where it
stopped, whatever stopped it; with other settings it is refused. Ray restarts workers that die; every start, Ray's or
the user's, takes the newest whole checkpoint of the folder (docs/decisions/0003: why not Ray's own checkpoints).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corrfractal.config import config_from_dict, config_to_dict, flatten
from corrfractal.console import progress, say
from corrfractal.errors import ConfigError, CorrFractalError, DivergedError
from corrfractal.manifest import load_manifest
from corrfractal.runtime import cpu_count, ray_session, write_text

from .config import TrainingConfig
from .health import check_labels
from .loop import Job, fit, usable_samples
from .machine import note_attempt
from .registry import ModelVersion, register
from .tracking import start_run

MAX_FAILURES = 3


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished run: its last logged metrics, its model file, and the version it was registered as."""

    steps: int
    metrics: dict[str, float]
    model_file: Path
    model: ModelVersion
    tracking_uri: str
    seconds: float


def train(
    shards: Path,
    out: Path,
    config: TrainingConfig,
    *,
    tracking_uri: str,
    workers: int = 2,
    use_gpu: bool = False,
) -> TrainingResult:
    """Train on a folder of shards and register the result.

    Args:
        shards: folder with ``manifest.json``.
        out: folder of the run; the same again resumes.
        config: how to train.
        tracking_uri: MLflow store.
        workers: DDP processes; ``config.batch_size`` is divided among them.
        use_gpu: a GPU and nccl for each worker, instead of a CPU and gloo.

    Raises:
        CallError: no such shards, shards too short, settings that do not fit together or to the folder.
        BoundExceededError: the labels are collapsed, frozen or noise.
        DivergedError: the loss is no longer finite.
        CorrFractalError: workers failed more often than Ray was allowed to restart them.
    """
    started = time.monotonic()
    # 1. Check what is asked for, before anything is started.
    job = _job(shards.absolute(), out.absolute(), config, tracking_uri, workers)
    # 2. Train, unless an earlier call finished.
    result_file = Path(job.out) / "result.json"
    if not result_file.exists():
        note_attempt(Path(job.out), workers)
        _fit_on_ray(job, workers, use_gpu)
    # 3. Register; a run that is registered already keeps its version.
    result = json.loads(result_file.read_text())
    model_file = Path(job.out) / "model.safetensors"
    return TrainingResult(
        steps=result.pop("step"),
        metrics=result,
        model_file=model_file,
        model=register(model_file, job.run_id, tracking_uri, job.shards_digest),
        tracking_uri=tracking_uri,
        seconds=time.monotonic() - started,
    )


def _job(shards: Path, out: Path, config: TrainingConfig, tracking_uri: str, workers: int) -> Job:
    """The job of a folder: a new one, or the one that it holds, which must be the same."""
    manifest = load_manifest(shards)
    samples = usable_samples(shards, config)
    if not samples:
        raise ConfigError(
            f"no clip in {shards} has the {config.clip_frames_needed} frames that the preset "
            f"'{config.references}' needs: precompute longer clips"
        )
    check_labels(manifest.statistics.labels, config, shards)
    if config.batch_size % workers:
        raise ConfigError(f"batch_size {config.batch_size} is not a multiple of the number of workers, {workers}")
    job = Job(
        shards=str(shards),
        shards_digest=manifest.digest,
        out=str(out),
        config=config,
        total=config.steps or max(1, config.epochs * len(samples) // config.batch_size),
        tracking_uri=tracking_uri,
        run_id="",
    )
    job_file = out / "job.json"
    if job_file.exists():
        held = config_from_dict(Job, json.loads(job_file.read_text()), where=str(job_file))
        _refuse_another(replace(held, run_id="", out=job.out, shards=job.shards, tracking_uri=tracking_uri), job)
        return replace(job, run_id=held.run_id)
    out.mkdir(parents=True, exist_ok=True)
    params = {**flatten(config_to_dict(config)), "steps": job.total, "samples": len(samples), "workers": workers}
    job = replace(job, run_id=start_run(tracking_uri, out.name, params, shards, manifest.digest))
    write_text(job_file, json.dumps(config_to_dict(job), indent=2))
    return job


def _refuse_another(held: Job, asked: Job) -> None:
    a, b = flatten(config_to_dict(held)), flatten(config_to_dict(asked))
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            raise ConfigError(
                f"{asked.out} holds another run: '{key}' was {a.get(key)!r} and is now {b.get(key)!r}. "
                "Repeat the first call to resume it, or name another --out"
            )


def _fit_on_ray(job: Job, workers: int, use_gpu: bool) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    _note_previous(Path(job.out))
    with ray_session(ray, max(workers, cpu_count())):
        trainer = TorchTrainer(
            _worker,
            train_loop_config=config_to_dict(job),
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
            # Ray keeps nothing that we need: a fresh name each time, so that it never restores a state of its own.
            run_config=RunConfig(
                name=f"fit-{time.time_ns()}",
                storage_path=str(Path(job.out) / "ray"),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        try:
            with _progress(job):
                trainer.fit()
        except ray.train.TrainingFailedError as exc:
            raise CorrFractalError(
                f"training stopped: {_cause(exc)}. The same command goes on from the last checkpoint in {job.out}"
            ) from exc
    check_finished(Path(job.out))


def check_finished(out: Path) -> None:
    """Raise ``DivergedError`` if the workers left without a result. What an earlier attempt left says nothing."""
    if not (out / "result.json").exists():
        at = json.loads((out / "diverged" / "step.json").read_text())
        raise DivergedError(
            f"the loss is not finite after step {at['step']}; its samples and a checkpoint are in {out}/diverged. "
            "Lower learning_rate, or look at these samples"
        )


def _worker(settings: dict[str, Any]) -> None:
    """Runs in each of Ray Train's processes, its process group already up."""
    import ray.train
    import torch

    context = ray.train.get_context()
    job = config_from_dict(Job, settings, where="training job")
    torch.set_num_threads(1 if torch.cuda.is_available() else max(1, cpu_count() // context.get_local_world_size()))
    fit(job, ray.train.torch.get_device(), context.get_world_rank(), context.get_world_size())


def _cause(exc: BaseException) -> str:
    """The first line that tells, of the deepest error that Ray wrapped."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    failures = getattr(exc, "worker_failures", None)
    if failures:
        return "; ".join(f"worker {rank}: {str(error).strip().splitlines()[-1]}" for rank, error in failures.items())
    return str(exc).strip().splitlines()[-1]


def _note_previous(out: Path) -> None:
    found = sorted((out / "checkpoints").glob("step-*.pt"))
    if found:
        say(f"resuming from {found[-1].relative_to(out)}")


@contextmanager
def _progress(job: Job) -> Iterator[None]:
    """Show the steps done, read from the file that rank 0 appends to."""
    stop = threading.Event()

    def follow() -> None:
        shown, path = 0, Path(job.out) / "metrics.jsonl"
        with progress("training", job.total) as advance:
            while not stop.wait(1.0):
                lines = path.read_text().splitlines() if path.exists() else []
                done = json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else shown
                if done > shown:
                    advance(done - shown)
                    shown = done

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
