"""Shards -> registered model, on Ray Train. The numbered chain of ``corrfractal train``; the only
file here that imports ray.

A run lives in its folder (``training.loop`` lists it). Calling ``train`` again with the same folder
resumes it, whatever stopped it; with other settings it is refused. Ray restarts
workers that die; every start, Ray's or the user's, takes the newest complete checkpoint of the folder
(docs/decisions/0003: why not Ray's own checkpoints).
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from corrfractal.common import storage
from corrfractal.common.config import config_from_dict, config_to_dict, flatten
from corrfractal.common.console import say
from corrfractal.common.errors import ConfigError, CorrFractalError, DivergedError, IntegrityError
from corrfractal.common.files import file_sha256, write_text
from corrfractal.common.output_guard import refuse_existing, refuse_overlap
from corrfractal.common.process import configure_process, cpu_count
from corrfractal.common.ray_session import ray_session
from corrfractal.common.surroundings import refuse_faults
from corrfractal.common.text import without_password
from corrfractal.registry.connection import open_store
from corrfractal.registry.store import canonical_uri, check_store, local_file
from corrfractal.registry.store import tracking_uri as default_uri
from corrfractal.registry.versions import ModelVersion, register
from corrfractal.shards.manifest import load_manifest
from inference import SERVING_FILE
from training.data.batches import usable_samples
from training.data.order import check_share
from training.state.driver_progress import note_previous, shown_progress
from training.state.machine import ATTEMPTS, note_attempt, talk_over
from training.state.recorder import deliver
from training.state.run_log import start_run
from training.state.run_store import store_of_run
from training.state.stop import listen, stop_file

from .config import RESUMABLE_FIELDS, TrainingConfig
from .job import Job
from .label_bounds import check_labels
from .loop import Outcome, fit
from .meter import StepTime

MAX_FAILURES = 3

RUN_FILES = (
    "checkpoints", "metrics.jsonl", "messages.log", "pictures", "model.safetensors", "result.json", "diverged", ATTEMPTS
)  # fmt: skip
"""What a run writes into its folder: without ``job.json`` these belong to somebody else."""

STEP_COUNTERS = {
    "steps": "Steps",
    "samples": "Samples",
    "step_seconds": "Time of steps, data wait included",
    "data_wait_seconds": "Time that steps waited for data",
}


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished run: its last logged metrics, its model file, and the version it was registered
    as."""

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
        out: folder of the run; the same again resumes.
        config: how to train.
        tracking_uri: MLflow store; None is that of the run in ``out`` or, for a new run,
            ``mlflow.db`` in the working folder.
        workers: DDP processes, among which ``config.batch_size`` is divided; (least, most) for as
            many as the cluster has at the time.
        use_gpu: a GPU and nccl for each worker, instead of a CPU and gloo.
        max_failures: how often Ray starts the workers again after a failure; -1: without limit.

    Raises:
        CallError: no such shards, shards too short, settings that do not fit together or to the
        folder.
        BoundExceededError: the labels are collapsed, frozen or noise.
        DivergedError: the loss is no longer finite.
        CorrFractalError: workers failed more often than Ray was allowed to restart them.
        IntegrityError: the model file of a finished run was changed.
        KeyboardInterrupt: the process was asked to stop; all steps done are in a checkpoint.
    """
    started = time.monotonic()
    bounds = workers if isinstance(workers, tuple) else (workers, workers)
    # 1. Check what is asked for, before anything is started.
    asked = checked_job(shards, out, config, tracking_uri, bounds)
    job = _opened(asked, bounds)
    # 2. Train, unless an earlier call finished.
    result_file = Path(job.out) / "result.json"
    if result_file.exists():
        deliver(job)
    else:
        note_attempt(Path(job.out), bounds)
        _fit_on_ray(job, bounds, use_gpu, max_failures)
    # 3. Register; a run that is registered already keeps its version.
    result = json.loads(result_file.read_text())
    model_file = Path(job.out) / "model.safetensors"
    if result.pop("model_sha256", file_sha256(model_file)) != file_sha256(model_file):
        raise IntegrityError(
            f"{model_file} is not the model that this run has written, so it is not registered: "
            "restore it, or train with another --out"
        )
    try:
        version = register(
            model_file, job.run_id, job.tracking_uri, job.shards_digest, serving_file=SERVING_FILE
        )
    except CorrFractalError as exc:
        raise CorrFractalError(
            f"training is complete and the model is {model_file}, but it is not registered: {exc}. "
            "The same command again registers it"
        ) from exc
    return TrainingResult(
        steps=result.pop("step"),
        metrics=result,
        model_file=model_file,
        model=version,
        tracking_uri=without_password(job.tracking_uri),
        seconds=time.monotonic() - started,
    )


def checked_job(
    shards: str | Path,
    out: Path,
    config: TrainingConfig,
    tracking_uri: str | None,
    bounds: tuple[int, int],
) -> Job:
    """The job that is asked for, without an MLflow run yet; nothing is written.

    Raises:
        CallError: no such shards, shards too short, settings that do not fit together or to what
            the folder holds, a store that does not hold the run.
        CorrFractalError: the store cannot be used.
    """
    refuse_faults("training")
    evaluate_on = None if config.evaluate_on is None else Path(config.evaluate_on)
    refuse_overlap({"--out": out}, (shards, evaluate_on))
    shards, out = storage.resolve(shards), out.absolute()
    named = canonical_uri(tracking_uri) if tracking_uri else None
    manifest = load_manifest(shards)
    samples = usable_samples(shards, config)
    if not samples:
        raise ConfigError(
            f"no clip in {shards} has the {config.clip_frames_needed} frames that the preset "
            f"'{config.references}' needs: precompute longer clips"
        )
    check_labels(manifest.statistics.labels, config, shards)
    try:
        check_share(config.batch_size, config.accumulate, range(bounds[0], bounds[1] + 1))
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    if config.evaluate_on is not None:
        config = replace(config, evaluate_on=str(Path(config.evaluate_on).absolute()))
    job = Job(
        shards=shards,
        shards_digest=manifest.digest,
        out=str(out),
        config=config,
        total=config.steps or max(1, config.epochs * len(samples) // config.batch_size),
        tracking_uri=named or default_uri(),
        run_id="",
    )
    held = _held_job(out)
    if held is None:
        refuse_existing((out / name for name in RUN_FILES), "name another folder with --out")
        check_store(job.tracking_uri, write=True)
        return job
    practical = {name: getattr(config, name) for name in RESUMABLE_FIELDS}
    moved = replace(held, run_id="", out=job.out, shards=job.shards, tracking_uri=job.tracking_uri)
    _refuse_another(replace(moved, config=replace(held.config, **practical)), job)
    return replace(job, tracking_uri=store_of_run(held, out, named))


def _opened(job: Job, bounds: tuple[int, int]) -> Job:
    """The job with its MLflow run: a new one, or the one of the job that the folder holds."""
    out = Path(job.out)
    held = _held_job(out)
    if held is not None:
        # A server may be away while a run resumes; a local store may have been moved.
        if local_file(job.tracking_uri) is not None:
            open_store(job.tracking_uri, write=True)
        return replace(job, run_id=held.run_id)
    out.mkdir(parents=True, exist_ok=True)
    samples = len(usable_samples(job.shards, job.config))
    params = {
        **flatten(config_to_dict(job.config)),
        "steps": job.total,
        "samples": samples,
        "workers": bounds[1],
    }
    job = replace(
        job, run_id=start_run(job.tracking_uri, out.name, params, job.shards, job.shards_digest)
    )
    shown = replace(job, tracking_uri=without_password(job.tracking_uri))
    write_text(out / "job.json", json.dumps(config_to_dict(shown), indent=2))
    return job


def _held_job(out: Path) -> Job | None:
    job_file = out / "job.json"
    if not job_file.exists():
        return None
    return config_from_dict(Job, json.loads(job_file.read_text()), where=str(job_file))


def _refuse_another(held: Job, asked: Job) -> None:
    a, b = flatten(config_to_dict(held)), flatten(config_to_dict(asked))
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            raise ConfigError(
                f"{asked.out} holds another run: '{key}' was {a.get(key)!r} and is now "
                f"{b.get(key)!r}. Repeat the first call to resume it, or name another --out"
            )


def _fit_on_ray(job: Job, bounds: tuple[int, int], use_gpu: bool, max_failures: int) -> None:
    configure_process()
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    out = Path(job.out)
    note_previous(out)
    with ray_session(max(bounds[1], cpu_count())):
        trainer = TorchTrainer(
            _worker,
            train_loop_config=config_to_dict(job),
            torch_config=_listening("nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=bounds if bounds[0] < bounds[1] else bounds[1], use_gpu=use_gpu
            ),
            # Ray keeps nothing that we need: a fresh name each time, so that it never restores a
            # state of its own.
            run_config=RunConfig(
                name=f"fit-{time.time_ns()}",
                storage_path=str(out / "ray"),
                failure_config=FailureConfig(max_failures=max_failures),
            ),
        )
        try:
            with shown_progress(job), _asked_to_stop(out) as asked:
                _run_in_thread(trainer.fit)
        except ray.train.TrainingFailedError as exc:
            raise CorrFractalError(
                f"training stopped: {_cause(exc)}. The same command resumes from the last "
                f"checkpoint in {job.out}"
            ) from exc
    if asked.is_set() and not (out / "result.json").exists():
        raise KeyboardInterrupt
    check_finished(out)


def _run_in_thread(work: Callable[[], object]) -> None:
    """Call in another thread and wait: signals stay ours. In the main thread Ray would answer
    Ctrl-C, by aborting."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            work()
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=call, name="ray-train", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


@contextmanager
def _asked_to_stop(out: Path) -> Iterator[threading.Event]:
    """SIGTERM and Ctrl-C make the workers leave at their next step, with a checkpoint; a second one
    does not wait."""
    asked, file = threading.Event(), stop_file(out)
    file.unlink(missing_ok=True)
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        file.touch()
        say("asked to stop: a checkpoint at the next step, then out")

    main = threading.current_thread() is threading.main_thread()
    for number in previous if main else ():
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in previous.items() if main else ():
            signal.signal(number, handler)
        file.unlink(missing_ok=True)


def _listening(backend: str) -> Any:
    """Ray's process group, over the network that Ray itself uses, and workers that take note of
    SIGTERM.

    Signals reach the main thread alone, where Ray runs what it is asked to run before training,
    which has a thread.
    """
    from ray.train.torch import TorchConfig

    class Listening(TorchConfig().backend_cls):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(_bind_collective_interface)
            super().on_start(worker_group, backend_config)

        def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_training_start(worker_group, backend_config)
            worker_group.execute(listen)

    class ListeningConfig(TorchConfig):
        @property
        def backend_cls(self) -> type[Listening]:
            return Listening

    return ListeningConfig(backend=backend)


def _bind_collective_interface() -> None:
    import ray.util

    talk_over(ray.util.get_node_ip_address())


def check_finished(out: Path) -> None:
    """Raise ``DivergedError`` if the workers left without a result. What an earlier attempt left
    says nothing."""
    if not (out / "result.json").exists():
        at = json.loads((out / "diverged" / "step.json").read_text())
        raise DivergedError(
            f"the loss is not finite after step {at['step']}; its samples and a checkpoint are in "
            f"{out}/diverged. Lower learning_rate, or look at these samples"
        )


def _worker(settings: dict[str, Any]) -> None:
    """Runs in each of Ray Train's processes, its process group already up."""
    import ray.train
    import torch

    context = ray.train.get_context()
    job = config_from_dict(Job, settings, where="training job")
    torch.set_num_threads(
        1 if torch.cuda.is_available() else max(1, cpu_count() // context.get_local_world_size())
    )
    rank, world = context.get_world_rank(), context.get_world_size()
    outcome = fit(job, ray.train.torch.get_device(), rank, world, _exported(rank))
    if outcome is Outcome.STOPPED and not stop_file(Path(job.out)).exists():
        # Not the driver's wish: a worker's host is going away. Ray counts a failure and starts
        # again where it can.
        raise CorrFractalError(
            "a worker was told to leave (SIGTERM); all steps done are in a checkpoint"
        )


def _exported(rank: int) -> Callable[[StepTime], None]:
    """Adds a worker's steps to counters that Ray exports to Prometheus, each as
    ``ray_corrfractal_train_..._total``."""
    from ray.util.metrics import Counter

    counters = {
        name: Counter(f"corrfractal_train_{name}", text, tag_keys=("rank",))
        for name, text in STEP_COUNTERS.items()
    }

    def export(step: StepTime) -> None:
        for name, value in {"steps": 1.0, **asdict(step)}.items():
            if value > 0:  # a counter takes nothing else
                counters[name].inc(value, tags={"rank": str(rank)})

    return export


def _cause(exc: BaseException) -> str:
    """The first line that tells, of the deepest error that Ray wrapped."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    failures = getattr(exc, "worker_failures", None)
    if failures:
        return "; ".join(f"worker {rank}: {_last_line(error)}" for rank, error in failures.items())
    return _last_line(exc)


def _last_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return lines[-1] if lines else type(exc).__name__  # MemoryError() says nothing
