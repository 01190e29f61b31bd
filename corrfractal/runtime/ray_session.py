"""One Ray session for a command: the current one, a cluster's, or a private one.

Ray is imported inside functions, after ``configure_process``: it reads part of its environment when
it is imported.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from corrfractal.common.errors import CorrFractalError
from corrfractal.common.foreign_errors import describe_error
from corrfractal.common.logs import library_level

from .process import ROOT, configure_process
from .surroundings import cluster_address, ray_groups, refuse_faults

log = logging.getLogger(__name__)


@contextmanager
def ray_session(cpus: int | None = None) -> Iterator[None]:
    """Reuse the current Ray session; otherwise connect to ``RAY_ADDRESS``; otherwise start a
    private local one. A session that this block opened ends with it.

    Args:
        cpus: CPUs of a private session; None: all.

    Raises:
        CallError: an environment variable has a value that cannot work; nothing was started.
        CorrFractalError: Ray does not start, or the cluster refuses the connection.
    """
    configure_process()
    import ray

    if ray.is_initialized():
        log.debug("using the current Ray session")
        yield
        return
    refuse_faults(*ray_groups())
    log.debug("connecting to Ray %s", cluster_address() or "(private, on this machine)")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**_ray_options(cpus))
    except Exception as exc:
        ray.shutdown()  # stop the processes that were started before the failure
        where = cluster_address() or "on this machine"
        raise CorrFractalError(f"no Ray session {where}: {describe_error(exc)}") from exc
    if threading.current_thread() is threading.main_thread():
        # Ray installs a handler that exits without a message
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _installed_code_only() -> Any:
    """A Ray job configuration whose workers import from our folder, not from the working directory.

    Ray puts the driver's working directory and script folder first on its workers' search path,
    unless the job has a ``working_dir``: a ``statistics.py`` there would shadow Python's.
    """

    import ray.job_config

    base: Any = ray.job_config.JobConfig

    class InstalledCodeOnly(base):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return InstalledCodeOnly(_py_driver_sys_path=[str(ROOT)])


def _ray_options(cpus: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.getLevelName(library_level("ray")),
        "job_config": _installed_code_only(),
    }
    if cluster_address() is not None:
        return options
    # "local": Ray would otherwise join a cluster that happens to run on this machine. The object
    # store is small since frames are never passed through it.
    private = {"address": "local", "include_dashboard": False}
    return {**options, **private, "num_cpus": cpus, "object_store_memory": 256 << 20}
