"""Run ``training.loop.fit`` on Ray Train: process group, signals, counters and errors.

The only file of training that imports ray, and only inside functions: Ray reads part of its
environment when it is imported, so ``configure_process`` comes first.

Ray restarts workers that fail. Checkpoints are ours and not Ray's: every start, Ray's or the
user's, resumes from the newest intact checkpoint in the run's folder (docs/decisions/0003).
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from corrfractal.common.config import config_from_dict, config_to_dict
from corrfractal.common.errors import CorrFractalError
from corrfractal.common.logs import configure_logging
from corrfractal.files import storage
from corrfractal.runtime.process import configure_process, cpu_count
from corrfractal.runtime.ray_session import ray_session
from training.data.samples import SampleIndex
from training.state.driver_progress import show_progress
from training.state.run_folder import RESULT
from training.state.stop import catch_sigterm, request_stop, stop_requested, withdraw_stop

from .job import TrainingJob
from .loop import Outcome, fit, set_threads
from .meter import StepTime

STEP_COUNTERS = {
    "steps": "Steps",
    "samples": "Samples",
    "step_seconds": "Time of steps, data wait included",
    "data_wait_seconds": "Time that steps waited for data",
}
"""Counters that each worker exports, and their help texts."""

log = logging.getLogger(__name__)


def fit_on_ray(
    job: TrainingJob,
    samples: SampleIndex,
    bounds: tuple[int, int],
    group: str,
    *,
    use_gpu: bool,
    max_failures: int,
) -> None:
    """Train a job with DDP on Ray, and return when its workers have left.

    Args:
        job: with its MLflow run.
        samples: of the job. Each host fetches them once from the driver, and its workers map them.
        bounds: least and most workers.
        group: identifies this driver, see ``corrfractal.files.lease``.
        use_gpu: a GPU and nccl for each worker, instead of a CPU and gloo.
        max_failures: restarts of failed workers; -1: without limit.

    Raises:
        CorrFractalError: workers failed more often than they may be restarted.
        KeyboardInterrupt: a signal stopped the run; a checkpoint holds all steps done.
    """
    configure_process()
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    least, most = bounds
    with ray_session(max(most, cpu_count())):
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={
                "job": config_to_dict(job),
                "samples": ray.put(samples),
                "group": group,
            },
            torch_config=_torch_config("nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=bounds if least < most else most, use_gpu=use_gpu
            ),
            # Under a name that it knows Ray would restore state of its own, so each start has a
            # new one.
            run_config=RunConfig(
                name=f"fit-{time.time_ns()}",
                storage_path=_ray_folder(job.out),
                failure_config=FailureConfig(max_failures=max_failures),
            ),
        )
        try:
            with show_progress(job), stop_on_signal(job.out) as stopping:
                run_in_thread(trainer.fit)
        except ray.train.TrainingFailedError as exc:
            raise CorrFractalError(
                f"training stopped: {_root_cause(exc)}. The same command resumes from the last "
                f"checkpoint in {job.out}"
            ) from exc
    if stopping.is_set() and storage.kind(storage.join(job.out, RESULT)) is None:
        raise KeyboardInterrupt


# In the driver --------------------------------------------------------------------------------


def _ray_folder(out: str) -> str:
    """Where Ray keeps state of its own, which nothing reads later: checkpoints are ours."""
    if not storage.is_uri(out):
        return str(Path(out) / "ray")
    return str(Path(tempfile.gettempdir()) / "corrfractal-ray")


def run_in_thread(work: Callable[[], object]) -> None:
    """Call a function in another thread, wait for it, and raise what it raised.

    In the main thread Ray would install its own handler of Ctrl-C, which aborts the workers.
    """
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
def stop_on_signal(out: storage.Location) -> Iterator[threading.Event]:
    """On SIGTERM or Ctrl-C, request the workers to stop at their next step; a second signal
    interrupts at once.

    Args:
        out: folder of the run, which gets the request.

    Yields:
        An event that is set once a stop was requested.
    """
    stopping = threading.Event()
    request = threading.Thread(target=request_stop, args=(out,), name="stop")
    withdraw_stop(out)

    def handle(number: int, frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        # In a thread: the handler may have interrupted a request to the same store.
        request.start()
        log.info("stopping: all workers write a checkpoint at the next step")

    # Only the main thread may install handlers.
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, handle)
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if stopping.is_set():
            request.join()
        withdraw_stop(out)


def _root_cause(exc: BaseException) -> str:
    """The last line of the innermost error that Ray wrapped: of each worker, if Ray lists them."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    failures = getattr(exc, "worker_failures", None)
    if failures:
        return "; ".join(f"worker {rank}: {_last_line(error)}" for rank, error in failures.items())
    return _last_line(exc)


def _last_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return lines[-1] if lines else type(exc).__name__  # MemoryError() has no text


# In the workers -------------------------------------------------------------------------------


def _torch_config(backend: str) -> Any:
    """Ray's process group configuration, with two steps of ours in each worker.

    Python delivers signals only to the main thread, and Ray Train runs the training function in
    another one. Ray calls these hooks in the main thread.
    """
    from ray.train.torch import TorchConfig

    class SignalAwareBackend(TorchConfig().backend_cls):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(_bind_to_ray_interface)
            super().on_start(worker_group, backend_config)

        def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_training_start(worker_group, backend_config)
            worker_group.execute(catch_sigterm)

    class SignalAwareTorchConfig(TorchConfig):
        @property
        def backend_cls(self) -> type[SignalAwareBackend]:
            return SignalAwareBackend

    return SignalAwareTorchConfig(backend=backend)


def _bind_to_ray_interface() -> None:
    import ray.util

    bind_collective_interface(ray.util.get_node_ip_address())


def bind_collective_interface(address: str) -> None:
    """Let gloo and nccl use the network interface with this IP address, unless the environment
    names one.

    By default gloo resolves the host's name. Where that fails it listens on loopback, and the
    workers of other hosts wait for it without end.
    """
    import psutil

    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _train_worker(settings: dict[str, Any]) -> None:
    """The training function of each worker; Ray has set up the process group."""
    import ray
    import ray.train

    configure_logging()
    context = ray.train.get_context()
    job = config_from_dict(TrainingJob, settings["job"], where="training job")

    set_threads(context.get_local_world_size())
    rank = context.get_world_rank()
    outcome = fit(
        job,
        ray.train.torch.get_device(),
        rank,
        context.get_world_size(),
        on_step=_step_exporter(rank),
        samples=ray.get(settings["samples"]),
        group=settings["group"],
    )
    # Without such a request it was not the driver that stopped the run: the worker's host is being
    # shut down. An error makes Ray restart the workers on the remaining hosts.
    if outcome is Outcome.STOPPED and not stop_requested(job.out):
        raise CorrFractalError("a worker received SIGTERM; a checkpoint holds all steps done")


def _step_exporter(rank: int) -> Callable[[StepTime], None]:
    """Return a function that adds a step to the worker's counters. Ray exports them to Prometheus
    as ``ray_corrfractal_train_..._total``."""
    from ray.util.metrics import Counter

    counters = {
        name: Counter(f"corrfractal_train_{name}", text, tag_keys=("rank",))
        for name, text in STEP_COUNTERS.items()
    }

    def export(step: StepTime) -> None:
        for name, value in {"steps": 1.0, **asdict(step)}.items():
            if value > 0:  # a Counter refuses 0
                counters[name].inc(value, tags={"rank": str(rank)})

    return export
