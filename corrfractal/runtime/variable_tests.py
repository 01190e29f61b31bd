"""Tests of single environment variables: each returns what is wrong with a value, or None.

The texts continue a sentence that starts with the value: "'abc' is no whole number".
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

TIMEOUT = 5.0  # seconds

# The shortest valid start of an HTTP/2 connection, and so of gRPC: the preface and an empty
# SETTINGS frame (RFC 9113, section 3.4).
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4
_SOCKET_PATH_BYTES = 107  # sun_path of a Unix socket, without its final NUL


def ray_address_fault(value: str) -> str | None:
    if value == "auto":
        return None if _head_runs() else "finds no Ray that runs on this machine"
    scheme, separator, rest = value.rpartition("://")
    host, colon, port = rest.rpartition(":")
    if (separator and scheme != "ray") or not colon or not host or not port.isdecimal():
        return "is no address of a Ray cluster"
    if not 0 < int(port) < 65536:
        return "has no valid port"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT) as peer:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return None
            peer.sendall(_HTTP2_PREFACE)
            answer = peer.recv(9)
    except (OSError, UnicodeError) as exc:  # UnicodeError: an invalid host name
        return f"does not answer ({exc})"
    # With the port of the dashboard, which speaks HTTP/1, Ray would wait for over a minute.
    return None if answer[3:4] == bytes([_SETTINGS_FRAME]) else "is a server, but not of Ray"


def _head_runs() -> bool:
    import psutil

    return any(process.info["name"] == "gcs_server" for process in psutil.process_iter(["name"]))


def tls_fault(value: str) -> str | None:
    if value == "0":
        return None
    names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
    missing = [name for name in names if not Path(os.environ.get(name, "")).is_file()]
    return f"needs files that {' and '.join(missing)} should name" if missing else None


def importable_fault(value: str) -> str | None:
    package = value.partition(".")[0]
    return None if find_spec(package) else f"names a module of {package}, which is not installed"


def redis_fault(value: str) -> str | None:
    host, _, port = value.split(",")[0].rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=TIMEOUT).close()
    except (OSError, ValueError, OverflowError) as exc:
        return f"does not answer ({exc})"
    return None


def interfaces_fault(value: str) -> str | None:
    """Test names of network interfaces. NCCL also accepts prefixes, and ``^`` to exclude some."""
    if value.startswith("^"):
        return None
    present = [name for _, name in socket.if_nameindex()]
    asked = value.lstrip("=").split(",")
    if any(name.startswith(part) for part in asked for name in present):
        return None
    return f"is no network interface of this machine, which has {', '.join(present)}"


def auth_token_fault(value: str) -> str | None:
    return None if value.isascii() and value.isprintable() and " " not in value else "is no token"


def auth_token_file_fault(value: str) -> str | None:
    try:
        token = Path(value).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        return f"cannot be read ({exc.strerror if isinstance(exc, OSError) else exc})"
    if not token or auth_token_fault(token) is not None:
        return "holds no token"
    return None


def auth_mode_fault(value: str) -> str | None:
    if value.lower() in ("token", "disabled"):
        return None
    return "is not known, so nothing would be authenticated"


def jit_fault(value: str) -> str | None:
    if value == "0":
        return None
    return "leaves the loops uncompiled: hours instead of seconds"


def integer_fault(least: int) -> Callable[[str], str | None]:
    """Return a test for whole numbers from ``least`` on."""

    def test(value: str) -> str | None:
        try:
            return None if int(value) >= least else f"is less than {least}"
        except ValueError:
            return "is no whole number"

    return test


def boolean_fault(value: str) -> str | None:
    return None if value.lower() in ("true", "false", "0", "1") else "is neither true nor false"


def docstrings_fault(value: str) -> str | None:
    return "removes docstrings, which Ray extends when it starts" if value == "2" else None


def warnings_as_errors_fault(value: str) -> str | None:
    actions = {part.partition(":")[0] for part in value.split(",")}
    if "error" not in actions:
        return None
    return "makes every warning of a library stop the processes of Ray"


def json_object_fault(value: str) -> str | None:
    try:
        return None if isinstance(json.loads(value), dict) else "is no JSON object"
    except ValueError:
        return "is no JSON object"


def session_folder_fault(value: str) -> str | None:
    """Why Ray cannot create its session files and sockets in this folder."""
    if not Path(value).is_absolute():
        return "is a relative path, which the processes of Ray read differently"
    longest = f"{value}/ray/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    excess = len(os.fsencode(longest)) - _SOCKET_PATH_BYTES
    if excess > 0:
        return f"is {excess} bytes too long for the sockets of Ray"
    return unwritable_fault(Path(value))


def unwritable_fault(folder: Path) -> str | None:
    """Why a folder, or its nearest existing parent, is not writable."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return None
    except OSError as exc:
        return f"cannot be written ({exc.strerror})"


def token_folder_fault(home: str) -> str | None:
    folder = Path(home) / ".ray"
    if (folder / "auth_token").is_file():
        return None
    return unwritable_fault(folder)
