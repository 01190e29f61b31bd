"""Run Ray tasks with a limit on how many run at once, and yield each as it ends.

The pipeline makes shards with it, inference evaluates sequences and propagates videos. Ray is
imported inside functions, see ``ray_session``.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from corrfractal.common.errors import CorrFractalError
from corrfractal.common.foreign_errors import describe_error

J = TypeVar("J")

LOOK_SECONDS = 5.0
"""Between two looks at the number of CPUs of the cluster."""

NODE_SECONDS = 20.0
"""For a function on every node, see ``run_on_nodes``."""

SPARE_TASKS = 2
"""Pending tasks of a cluster without a CPU, on which an autoscaler has yet to start a node."""


class WorkerDiedError(CorrFractalError):
    """The worker process or the node of a task died, for example for lack of memory."""


@dataclass(frozen=True)
class EndedTask(Generic[J]):
    """A job whose task has ended."""

    job: J
    _reference: Any

    def result(self) -> Any:
        """What the task returned.

        Raises:
            WorkerDiedError: its process died before it returned.
            CorrFractalError: it raised; one sentence with the cause.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(self._reference)
        except RayTaskError as exc:
            raise CorrFractalError(describe_error(exc)) from exc
        except RayError as exc:
            raise WorkerDiedError(str(exc).splitlines()[0]) from exc


def cluster_has_gpus() -> bool:
    """Whether the current Ray session has a GPU."""
    import ray

    return bool(ray.cluster_resources().get("GPU"))


def run_tasks(
    work: Callable[..., Any],
    waiting: collections.deque[J],
    arguments: Callable[[J], tuple[Any, ...]],
    *,
    workers: int | None,
    options: dict[str, Any],
) -> Iterator[EndedTask[J]]:
    """Run one task for each job, in order; yield each as it ends.

    Args:
        work: runs in a worker process.
        waiting: jobs; the caller may put a job back while it iterates, to run it again.
        arguments: of ``work`` for a job, asked when its task starts.
        workers: tasks at once, at most; None or 0: one per CPU of the cluster, and as many again
            pending, since autoscalers add nodes for pending tasks only. Nodes that join or leave
            meanwhile count within ``LOOK_SECONDS``.
        options: of ``ray.remote``, such as ``num_cpus`` and ``max_retries``.

    Tasks that still run when the caller stops iterating are cancelled.
    """
    import ray

    task = ray.remote(**options)(work)
    running: dict[Any, J] = {}
    window = workers or _window()
    looked = time.monotonic()
    try:
        while waiting or running:
            if not workers and time.monotonic() - looked > LOOK_SECONDS:
                window = _window()
                looked = time.monotonic()
            while waiting and len(running) < window:
                job = waiting.popleft()
                running[task.remote(*arguments(job))] = job

            # The timeout: a node may join while every task takes an hour.
            ended, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_SECONDS)
            for reference in ended:
                yield EndedTask(running.pop(reference), reference)
    finally:
        for unfinished in running:
            ray.cancel(unfinished, force=True)


def run_on_nodes(work: Callable[[], None]) -> None:
    """Run a function once on every node of the cluster. Best effort: a node that does not answer
    within ``NODE_SECONDS`` is left out, and errors are ignored."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(work)
    strategies = [
        NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        for node in ray.nodes()
        if node["Alive"]
    ]
    started = [task.options(scheduling_strategy=strategy).remote() for strategy in strategies]
    ray.wait(started, num_returns=len(started), timeout=NODE_SECONDS)


def _window() -> int:
    """Tasks to hand to the cluster as it is now: running ones and pending ones."""
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 0))
    return 2 * cpus + SPARE_TASKS
