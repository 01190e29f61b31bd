"""Run Ray tasks with a limit on how many run at once, and yield each as it ends.

The pipeline makes shards with it, inference evaluates sequences and propagates videos. Ray is
imported inside functions, see ``ray_session``.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import CorrFractalError
from .foreign_errors import describe_error

J = TypeVar("J")


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
        workers: tasks at once; None or 0: one per CPU of the cluster.
        options: of ``ray.remote``, such as ``num_cpus`` and ``max_retries``.

    Tasks that still run when the caller stops iterating are cancelled.
    """
    import ray

    task = ray.remote(**options)(work)
    window = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: dict[Any, J] = {}
    try:
        while waiting or running:
            while waiting and len(running) < window:
                job = waiting.popleft()
                running[task.remote(*arguments(job))] = job
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            yield EndedTask(running.pop(ready), ready)
    finally:
        for unfinished in running:
            ray.cancel(unfinished, force=True)
