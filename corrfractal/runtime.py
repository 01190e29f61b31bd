"""Settings of a process, kept in one place: how this project starts or joins Ray, what it asks of
MLflow, and how files get their names.

This file does not import Ray; the ``run.py`` of each stage does, and hands it to ``ray_session``.
Ray reads part of its environment when it is *imported*, so that part is set when this file is: the
packages that use Ray import it first.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import CorrFractalError
from .foreign_errors import describe_error
from .surroundings import cluster_address, ray_groups, refuse_faults

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds this package and the other layers: site-packages, or a checkout."""


def _settle_environment() -> None:
    """Ray: no usage reports; and a private Ray listens on loopback only, where by default it
    listens on every interface (``_node_ip_address`` does not change that). A process that joins a
    cluster must keep its real address.

    glibc gives each of a worker's threads a heap of its own, up to eight a core, and every decoder
    starts threads: the workers of a build of 30 small videos came to 627 MB each, with two heaps to
    367.

    MLflow: it prints no address at the end of a run, since there may be a password in it; files
    come through its server, where by default those of an S3 store are fetched from the store, which
    often only the server can reach; and a server that is away is given up after seconds, where by
    default MLflow tries for minutes.
    """
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if os.environ.get(name) == "":
            del os.environ[name]  # Ray takes an empty one for the working folder
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if cluster_address() is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


_settle_environment()


@contextmanager
def ray_session(ray: ModuleType, cpus: int | None = None) -> Iterator[None]:
    """The Ray session at hand; else one for this block: of the cluster of ``RAY_ADDRESS`` if set,
    or a private one.

    Args:
        ray: the module, which this layer does not import.
        cpus: CPUs of a private session; None: all.

    Raises:
        CallError: a setting of the environment cannot work; nothing was started.
        CorrFractalError: Ray does not start, or its cluster refuses us.
    """
    if ray.is_initialized():
        yield
        return
    refuse_faults(*ray_groups())
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**_ray_options(ray, cpus))
    except Exception as exc:
        ray.shutdown()  # of what it had started
        where = cluster_address() or "on this machine"
        raise CorrFractalError(f"no Ray session {where}: {describe_error(exc)}") from exc
    if threading.current_thread() is threading.main_thread():
        # Ray installs a handler that exits without a message
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _installed_code_only(ray: ModuleType) -> Any:
    """A job whose workers do not import from the folder where the command was given, but from ours.

    Ray puts the driver's working folder and script folder first on its workers' search path, unless
    the job has a ``working_dir``: a ``statistics.py`` there would be imported, and run, in place of
    Python's.
    """

    base: Any = ray.job_config.JobConfig

    class InstalledCodeOnly(base):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return InstalledCodeOnly(_py_driver_sys_path=[str(ROOT)])


def _ray_options(ray: ModuleType, cpus: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "job_config": _installed_code_only(ray),
    }
    if cluster_address() is not None:
        return options
    # Frames never travel through the object store.
    # Never a cluster that happens to run on this machine
    private = {"address": "local", "include_dashboard": False}
    return {**options, **private, "num_cpus": cpus, "object_store_memory": 256 << 20}


def cpu_count() -> int:
    """CPUs that this process may use."""
    # Linux: a container or a queue may have given us a part of the machine
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def resident_mb() -> float:
    """Resident memory of this process now, in MB (10^6 bytes); 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def publish(temporary: Path, final: Path) -> None:
    """Give a finished file its final name, so that a half-written file is never taken for a whole
    one.

    The file's contents reach the disk before the name does (fsync, rename, fsync of the folder).
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def without_password(text: str) -> str:
    """A URI, or a text that names some, as it may be shown and stored: a password in a URI gives
    way to three stars."""
    return re.sub(r"(://[^/?#\s:@]*):[^/?#\s]*@", r"\1:***@", text)


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a small text file in one atomic step."""
    # Names of files may hold other bytes
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, contents: bytes) -> None:
    """Write a small file in one atomic step."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(contents)
        publish(temporary, path)
    except BaseException as exc:
        temporary.unlink(missing_ok=True)  # a full disk is not made fuller
        if isinstance(exc, OSError) and exc.filename is None:
            exc.filename = str(path)  # write(2) names no file
        raise
