"""What ``evaluate`` and ``propagate_many`` share: jobs by name as Ray tasks, each with one CPU and
a model that every worker process loads once.

A job that fails, or whose process dies, becomes a ``Failure`` with its reason; the others continue.
"""

from __future__ import annotations

import collections
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corrfractal.common.errors import CorrFractalError
from corrfractal.files import storage
from corrfractal.runtime.ray_tasks import WorkerDiedError, cluster_has_gpus, run_tasks
from inference.benchmarks.result_files import summary_note

from .load import STARTER, ModelSource, open_model, resolve_model
from .protocols import Model

RERUN_HINT = "results of the others are kept; fix these and rerun the same command"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A sequence or video without a result, and why."""

    name: str
    reason: str


def run_named_jobs(
    work: Callable[[Any], Any], jobs: Mapping[str, Any], workers: int
) -> Iterator[tuple[str, Any]]:
    """Run one Ray task for each job; yield its name and its outcome as it ends.

    Args:
        work: takes a job; runs in a worker process.
        jobs: by name, started in this order.
        workers: tasks at once; 0: one per CPU of the cluster.

    Yields:
        What ``work`` returned, or a ``Failure`` if it raised or its process died twice.
    """
    # A worker process sees a GPU only if its task asks for one.
    gpus = 1 if cluster_has_gpus() else 0
    # One retry by Ray: a process killed for memory often succeeds when run again.
    options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 1}
    waiting = collections.deque(jobs)

    for ended in run_tasks(
        work, waiting, lambda name: (jobs[name],), workers=workers, options=options
    ):
        try:
            yield ended.job, ended.result()
        except WorkerDiedError as exc:
            yield ended.job, Failure(name=ended.job, reason=f"its worker process died ({exc})")
        except CorrFractalError as exc:
            yield ended.job, Failure(name=ended.job, reason=str(exc))


def resolve_shared_model(
    model: str | None, out: Path, overwrite: bool, *, copy: bool = False
) -> ModelSource:
    """Find a model that every worker can read: weights of the MLflow store are copied to
    ``out/model``; with ``copy`` also any other file but the starter, which every machine has.

    Raises:
        NotFoundError, CallError: as ``resolve_model``; or a file of another origin occupies the
            place of the copy.
    """
    # A temporary folder of this process does not exist on other nodes; `out` must be shared.
    with tempfile.TemporaryDirectory(prefix="corrfractal-") as folder:
        source = resolve_model(model, Path(folder))
        downloaded = source.path is not None and source.path.is_relative_to(Path(folder).resolve())
        if source.path is None or not (downloaded or (copy and source.name != STARTER)):
            return source

        weights = out / "model" / source.path.name
        written = summary_note(out)
        written.refuse_foreign([weights], overwrite=overwrite)
        with written.replacing(weights) as temporary:
            shutil.copyfile(source.path, temporary)
    return replace(source, path=weights)


def use_one_core() -> None:
    """Limit torch and OpenCV to one thread: there is one worker process per core."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


# Ray reuses worker processes: without the cache every sequence would load the model again.
@functools.lru_cache(maxsize=1)
def cached_model(source: ModelSource) -> Model:
    """Load a model once per worker process."""
    return open_model(source)


def fetched_model(source: ModelSource, out: Path, uri: str) -> ModelSource:
    """A model on a machine that shares only the store: weights that the driver put into its copy
    ``out`` of the folder at ``uri`` are fetched once to a host's cache, under their SHA-256."""
    if source.path is None or not source.path.is_relative_to(out):
        return source
    path = default_folder() / f"{source.digest}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        name = source.path.relative_to(out).as_posix()
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fetched = Path(folder) / path.name
            storage.fetch(storage.join(uri, name), fetched)
            fetched.replace(path)
    return replace(source, path=path)


def default_folder() -> Path:
    """Cache of fetched weights: ``corrfractal/models`` in ``XDG_CACHE_HOME``, else ``~/.cache``."""
    cache_home = os.environ.get("XDG_CACHE_HOME")
    base = Path(cache_home) if cache_home else Path.home() / ".cache"
    return base / "corrfractal" / "models"


def list_failures(failures: Sequence[Failure]) -> str:
    """``name: reason`` of every failure, on one line."""
    return "; ".join(f"{failure.name}: {failure.reason}" for failure in failures)
