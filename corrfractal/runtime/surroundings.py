"""Find environment variables with values that cannot work, before anything starts.

One table lists variables and their tests (``variable_tests``). Commands raise an error about those
that concern them (``refuse_faults``); ``corrfractal doctor`` reports all. A test changes nothing
and takes at most a few seconds.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Literal, NamedTuple

from corrfractal.common.errors import CallError

from .variable_tests import (
    auth_mode_fault,
    auth_token_fault,
    auth_token_file_fault,
    boolean_fault,
    docstrings_fault,
    importable_fault,
    integer_fault,
    interfaces_fault,
    jit_fault,
    json_object_fault,
    ray_address_fault,
    redis_fault,
    session_folder_fault,
    tls_fault,
    token_folder_fault,
    warnings_as_errors_fault,
)

Group = Literal["any", "ray", "private ray", "joined ray", "training"]
"""Which commands a variable concerns: every one; those that use Ray, in any way, in a private
session, or in a cluster; ``train``."""


class Fault(NamedTuple):
    """A variable with a value that cannot work: what was found, and what to do."""

    name: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.found}; {self.advice}"


class _Check(NamedTuple):
    name: str
    group: Group
    test: Callable[[str], str | None]
    """What is wrong with the value, stripped and not empty; None: nothing."""
    advice: str


def cluster_address() -> str | None:
    """The Ray cluster that ``RAY_ADDRESS`` names; None: a private Ray on this machine."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def find_faults(*groups: Group) -> list[Fault]:
    """All variables of some groups whose values cannot work."""
    checks = (*_CHECKS, _temporary_folder(), _home_folder())
    concerned = [check for check in checks if check is not None and check.group in groups]
    faults = []
    for check in concerned:
        value = os.environ.get(check.name, "").strip()
        found = check.test(value) if value else None
        if found is not None:
            faults.append(Fault(check.name, f"{value[:80]!r} {found}", check.advice))
    return faults + crash_faults() if "any" in groups else faults


def crash_faults() -> list[Fault]:
    """Variables that crash a library: its C++ code reads them at import or at first use.

    Such a library knows hundreds of variables, so they are not tested one by one: if any is set,
    the library is run in a child process.
    """
    faults = []
    for library, pattern, trial in _TRIALS:
        names = sorted(name for name in os.environ if re.match(pattern, name))
        if not names:
            continue
        child = subprocess.run([sys.executable, "-P", "-c", trial], capture_output=True)
        if child.returncode != 0:
            found = f"{library} cannot read a value and crashes"
            faults.append(Fault(", ".join(names), found, "unset it, or correct it"))
    return faults


def ray_groups() -> tuple[Group, ...]:
    """The groups that concern a command that uses Ray."""
    return ("ray", "joined ray" if cluster_address() else "private ray")


def refuse_faults(*groups: Group) -> None:
    """Raise a ``CallError`` about the first variable whose value cannot work."""
    for fault in find_faults(*groups):
        raise CallError(str(fault))


def _temporary_folder() -> _Check:
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    advice = "set RAY_TMPDIR to a writable folder with a short absolute path"
    return _Check(name, "private ray", session_folder_fault, advice)


def _home_folder() -> _Check | None:
    """Ray keeps the token of a private session in ``~/.ray``, unless one is set."""
    token_set = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if token_set or os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    return _Check("HOME", "private ray", token_folder_fault, "set HOME to a writable folder")


_CHECKS = (
    _Check("NUMBA_DISABLE_JIT", "any", jit_fault, "unset it"),
    _Check("NUMBA_NUM_THREADS", "any", integer_fault(1), "unset it, or set a number of threads"),
    _Check("DECORD_EOF_RETRY_MAX", "any", integer_fault(1), "unset it"),
    _Check("DECORD_REWIND_RETRY_MAX", "any", integer_fault(1), "unset it"),
    _Check("AWS_MAX_ATTEMPTS", "any", integer_fault(1), "unset it, or set a number of attempts"),
    _Check(
        "RAY_ADDRESS", "joined ray", ray_address_fault,
        "set HOST:PORT of a running head, usually port 6379, or unset it to work on this machine",
    ),
    _Check("RAY_AUTH_MODE", "ray", auth_mode_fault, "set `token`, or unset it"),
    _Check("RAY_AUTH_TOKEN", "ray", auth_token_fault, "set the token alone, without spaces or line ends"),
    _Check("RAY_AUTH_TOKEN_PATH", "ray", auth_token_file_fault, "name the file that holds the token"),
    _Check("PYTHONOPTIMIZE", "ray", docstrings_fault, "unset it, or set 1"),
    _Check("PYTHONWARNINGS", "ray", warnings_as_errors_fault, "unset it"),
    _Check("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "training", boolean_fault, "unset it"),
    _Check("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "training", integer_fault(0), "unset it"),
    _Check("MLFLOW_HTTP_REQUEST_TIMEOUT", "training", integer_fault(1), "unset it"),
    _Check("RAY_REDIS_ADDRESS", "private ray", redis_fault, "unset it: a private Ray needs no Redis"),
    _Check("GLOO_SOCKET_IFNAME", "training", interfaces_fault, "unset it, or name one of these"),
    _Check("NCCL_SOCKET_IFNAME", "training", interfaces_fault, "unset it, or name one of these"),
    _Check("RAY_USE_TLS", "ray", tls_fault, "set them, or unset RAY_USE_TLS"),
    _Check("RAY_RUNTIME_ENV_HOOK", "ray", importable_fault, "install it, or unset the variable"),
    _Check("RAY_JOB_CONFIG_JSON_ENV_VAR", "ray", json_object_fault, "unset it: Ray sets it for its jobs"),
    _Check("RAY_OVERRIDE_RESOURCES", "private ray", json_object_fault, "unset it"),
)  # fmt: skip

_USE_OPENCV = """
import cv2
import numpy

cv2.setNumThreads(2)
picture = cv2.resize(numpy.zeros((8, 8, 3), numpy.uint8), (4, 4))
cv2.imdecode(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))[1], 1)
"""

_TRIALS = (("Ray", "RAY_[a-z]", "import ray"), ("OpenCV", "OPENCV_", _USE_OPENCV))
"""Library, a pattern of its variables, and a program that makes it read them."""
