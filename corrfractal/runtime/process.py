"""Environment variables of this process for Ray and MLflow; its CPUs and memory."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from .surroundings import cluster_address

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds this package and the other layers: site-packages, or a checkout."""

_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # No override of CUDA_VISIBLE_DEVICES in tasks that ask for no GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # glibc gives each thread of a worker its own heap, up to eight per core, and every decoder
    # starts threads: workers of a build of 30 small videos took 627 MB each, with two heaps 367.
    "MALLOC_ARENA_MAX": "2",
    # The address of a run may hold a password.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Fetch files through the server: often only the server can reach the S3 store behind it.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Give up a server that does not answer after seconds; MLflow's defaults try for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}

# Numbers of malloc.h. Setting one of them also ends glibc's own adjustment of both.
_KEEP_FREED_MEMORY = {
    -3: 32 << 20,  # M_MMAP_THRESHOLD: smaller blocks come from the heap; the largest value allowed
    -1: 64 << 20,  # M_TRIM_THRESHOLD: how much is kept free at the end of the heap
}


def configure_process() -> None:
    """Set defaults for Ray and MLflow in the environment of this process and its children.

    Variables that the user has set are kept. Ray reads some of them when it is imported, so
    commands call this first, and ``ray_session`` before it imports Ray. Idempotent.
    """
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if os.environ.get(name) == "":
            del os.environ[name]  # Ray would use the working directory
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if cluster_address() is None:
        # A private Ray listens on loopback only; by default it listens on every interface, and
        # `_node_ip_address` does not change that. A process that joins a cluster must keep its
        # real address.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def cpu_count() -> int:
    """CPUs that this process may use."""
    # A container or a batch queue may restrict the process to some CPUs (Linux only).
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MB of freed memory for the next blocks. By default glibc
    returns large blocks to the system, which clears their pages again for the next frame: 5 to 8 %
    of the time of a propagated frame. Without effect on other C libraries.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # not glibc
    for option, size in _KEEP_FREED_MEMORY.items():
        set_option(option, size)


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def resident_mb() -> float:
    """Resident memory of this process now, in MB (10^6 bytes); 0 if unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
