"""Settings of the environment that cannot work, found before anything starts: one table of
variables and tests.

Commands refuse what concerns them (``refuse_faults``), and ``corrfractal doctor`` reports all of
it. A test looks at a value and at the machine, changes nothing, and takes at most a few seconds.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from .errors import CallError

ANSWER_SECONDS = 5.0

# The least that an HTTP/2 client may send, and so a gRPC client: the preface, and an empty frame of
# settings.
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4
_SOCKET_PATH_BYTES = 107  # what an address of a Unix socket holds

Group = Literal["any", "ray", "private ray", "joined ray", "training"]
"""Who is concerned: every command; those that use Ray, or only with a Ray of our own, or only with
a cluster; and `train`, with what MLflow reads."""


class Fault(NamedTuple):
    """A setting that cannot work: what was found, and what to do about it."""

    name: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.found}; {self.advice}"


class _Check(NamedTuple):
    name: str
    group: Group
    test: Callable[[str], str | None]
    """What is wrong with the value of the variable, stripped and not empty; None if nothing is."""
    advice: str


def cluster_address() -> str | None:
    """The Ray cluster that ``RAY_ADDRESS`` names; None: a private Ray on this machine."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def find_faults(*groups: Group) -> list[Fault]:
    """All settings of some groups that cannot work."""
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
    """Settings that crash a library whose code in C++ reads them when it is imported or first used.

    Such a library knows hundreds of variables, so it is tried in a child process, and only where
    one of them is set.
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
    """Raise a ``CallError`` over the first setting that cannot work."""
    for fault in find_faults(*groups):
        raise CallError(str(fault))


def _ray_address(value: str) -> str | None:
    if value == "auto":
        return None if _head_runs() else "finds no Ray that runs on this machine"
    scheme, separator, rest = value.rpartition("://")
    host, colon, port = rest.rpartition(":")
    if (separator and scheme != "ray") or not colon or not host or not port.isdecimal():
        return "is no address of a Ray cluster"
    if not 0 < int(port) < 65536:
        return "has no valid port"
    try:
        with socket.create_connection(
            (host.strip("[]"), int(port)), timeout=ANSWER_SECONDS
        ) as peer:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return None
            peer.sendall(_HTTP2_HELLO)
            answer = peer.recv(9)
    except (OSError, UnicodeError) as exc:  # the latter from a host name
        return f"does not answer ({exc})"
    # The head's dashboard, on another port, speaks HTTP/1: Ray would wait for more than a minute.
    return None if answer[3:4] == bytes([_SETTINGS_FRAME]) else "is a server, but not of Ray"


def _head_runs() -> bool:
    import psutil

    return any(process.info["name"] == "gcs_server" for process in psutil.process_iter(["name"]))


def _tls(value: str) -> str | None:
    if value == "0":
        return None
    names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
    missing = [name for name in names if not Path(os.environ.get(name, "")).is_file()]
    return f"needs files that {' and '.join(missing)} should name" if missing else None


def _importable(value: str) -> str | None:
    from importlib.util import find_spec

    package = value.partition(".")[0]
    return None if find_spec(package) else f"names a module of {package}, which is not installed"


def _redis(value: str) -> str | None:
    host, _, port = value.split(",")[0].rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as exc:
        return f"does not answer ({exc})"
    return None


def _interfaces(value: str) -> str | None:
    """Names of network interfaces; NCCL also takes prefixes, and ``^`` for all others."""
    if value.startswith("^"):
        return None
    present = [name for _, name in socket.if_nameindex()]
    asked = value.lstrip("=").split(",")
    if any(name.startswith(part) for part in asked for name in present):
        return None
    return f"is no network interface of this machine, which has {', '.join(present)}"


def _auth_token(value: str) -> str | None:
    return None if value.isascii() and value.isprintable() and " " not in value else "is no token"


def _auth_token_file(value: str) -> str | None:
    try:
        token = Path(value).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        return f"cannot be read ({exc.strerror if isinstance(exc, OSError) else exc})"
    return ("holds no token" if not token else _auth_token(token)) and "holds no token"


def _auth_mode(value: str) -> str | None:
    return (
        None
        if value.lower() in ("token", "disabled")
        else "is not known, so nothing would be authenticated"
    )


def _compilation_off(value: str) -> str | None:
    return (
        None
        if value == "0"
        else "leaves the loops uncompiled, which takes hours where seconds are usual"
    )


def _whole(least: int) -> Callable[[str], str | None]:
    """A test that a value is a whole number of at least ``least``."""

    def test(value: str) -> str | None:
        try:
            return None if int(value) >= least else f"is less than {least}"
        except ValueError:
            return "is no whole number"

    return test


def _boolean(value: str) -> str | None:
    return None if value.lower() in ("true", "false", "0", "1") else "is neither true nor false"


def _without_docstrings(value: str) -> str | None:
    return "removes docstrings, which Ray extends when it starts" if value == "2" else None


def _warnings_as_errors(value: str) -> str | None:
    actions = {part.partition(":")[0] for part in value.split(",")}
    return (
        "makes every warning of a library stop the processes of Ray" if "error" in actions else None
    )


def _json_object(value: str) -> str | None:
    import json

    try:
        return None if isinstance(json.loads(value), dict) else "is no JSON object"
    except ValueError:
        return "is no JSON object"


def session_folder_fault(value: str) -> str | None:
    """Why Ray cannot make its session files and sockets in this folder."""
    if not Path(value).is_absolute():
        return "is a relative path, which the processes of Ray read differently"
    longest = f"{value}/ray/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    excess = len(os.fsencode(longest)) - _SOCKET_PATH_BYTES
    if excess > 0:
        return f"is {excess} bytes too long for the sockets of Ray"
    return _unwritable(Path(value))


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written in a folder, or in the nearest above it that exists."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return None
    except OSError as exc:
        return f"cannot be written ({exc.strerror})"


def _temporary_folder() -> _Check:
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    advice = "set RAY_TMPDIR to a folder with a short absolute path that can be written"
    return _Check(name, "private ray", session_folder_fault, advice)


def _home_folder() -> _Check | None:
    """Ray keeps the token of a private session in ``~/.ray``, unless one is set."""
    told = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if told or os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    return _Check("HOME", "private ray", _token_folder, "set HOME to a folder that can be written")


def _token_folder(home: str) -> str | None:
    return (
        None if (Path(home) / ".ray" / "auth_token").is_file() else _unwritable(Path(home) / ".ray")
    )


_CHECKS = (
    _Check("NUMBA_DISABLE_JIT", "any", _compilation_off, "unset it"),
    _Check("NUMBA_NUM_THREADS", "any", _whole(1), "unset it, or set a number of threads"),
    _Check("DECORD_EOF_RETRY_MAX", "any", _whole(1), "unset it"),
    _Check("DECORD_REWIND_RETRY_MAX", "any", _whole(1), "unset it"),
    _Check("AWS_MAX_ATTEMPTS", "any", _whole(1), "unset it, or set a number of attempts"),
    _Check(
        "RAY_ADDRESS", "joined ray", _ray_address,
        "set HOST:PORT of a running head, usually port 6379, or unset it to work on this machine",
    ),
    _Check("RAY_AUTH_MODE", "ray", _auth_mode, "set `token`, or unset it"),
    _Check("RAY_AUTH_TOKEN", "ray", _auth_token, "set the token alone, without spaces or line ends"),
    _Check("RAY_AUTH_TOKEN_PATH", "ray", _auth_token_file, "name the file that holds the token"),
    _Check("PYTHONOPTIMIZE", "ray", _without_docstrings, "unset it, or set 1"),
    _Check("PYTHONWARNINGS", "ray", _warnings_as_errors, "unset it"),
    _Check("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "training", _boolean, "unset it"),
    _Check("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "training", _whole(0), "unset it"),
    _Check("MLFLOW_HTTP_REQUEST_TIMEOUT", "training", _whole(1), "unset it"),
    _Check("RAY_REDIS_ADDRESS", "private ray", _redis, "unset it: a private Ray needs no Redis"),
    _Check("GLOO_SOCKET_IFNAME", "training", _interfaces, "unset it, or name one of these"),
    _Check("NCCL_SOCKET_IFNAME", "training", _interfaces, "unset it, or name one of these"),
    _Check("RAY_USE_TLS", "ray", _tls, "set them, or unset RAY_USE_TLS"),
    _Check("RAY_RUNTIME_ENV_HOOK", "ray", _importable, "install it, or unset the variable"),
    _Check("RAY_JOB_CONFIG_JSON_ENV_VAR", "ray", _json_object, "unset it: Ray sets it for its jobs"),
    _Check("RAY_OVERRIDE_RESOURCES", "private ray", _json_object, "unset it"),
)  # fmt: skip

_USE_OPENCV = """
import cv2
import numpy

cv2.setNumThreads(2)
picture = cv2.resize(numpy.zeros((8, 8, 3), numpy.uint8), (4, 4))
cv2.imdecode(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))[1], 1)
"""

_TRIALS = (("Ray", "RAY_[a-z]", "import ray"), ("OpenCV", "OPENCV_", _USE_OPENCV))
"""Library, its variables, and what makes it read them."""
