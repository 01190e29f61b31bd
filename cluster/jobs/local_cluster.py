"""A local Ray cluster: one head with token authentication that listens on loopback only.

``ray start --head --block`` runs in a POSIX session of its own, by which its processes are
distinguished from other Ray clusters of the same user. ``ray stop`` would end all of them, so it is
not used. Linux only.

Layout of the state folder, by default ``~/.corrfractal/cluster``:

    token           shared secret of the cluster, mode 0600
    cluster.json    the fields of ``LocalCluster``
    head.log        output of the head
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from corrfractal.common.errors import CallError, CorrFractalError, NotFoundError
from corrfractal.files.atomic import write_text
from corrfractal.files.output_guard import refuse_existing
from corrfractal.runtime.surroundings import refuse_faults
from corrfractal.runtime.variable_tests import session_folder_fault

from . import processes
from .job_server import JobServer

LOOPBACK = "127.0.0.1"
RAY_FOLDER = "corrfractal-ray-"
TOKEN = re.compile("[0-9a-f]{64}")

# Usually 10 to 20 s; a busy machine takes much longer.
START_TIMEOUT_SECONDS = 180.0
# On SIGTERM a driver closes its stage, so that the job can be resumed.
DRIVER_TIMEOUT_SECONDS = 10.0
HEAD_TIMEOUT_SECONDS = 15.0

# Small, because tasks exchange paths and figures; frames are never put into the object store.
OBJECT_STORE_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class LocalCluster:
    """A cluster that ``start`` started."""

    pid: int
    """Process id of the head, which is also the id of its session."""
    born: str
    """Start time of the head, see ``processes.Process``."""
    ray_address: str
    """Address for Ray drivers, ``host:port``."""
    dashboard: str
    """URL of the dashboard and job server."""
    folder: str
    """Ray's session files and logs; removed by ``stop``."""


def default_state() -> Path:
    """The default state folder."""
    return Path.home() / ".corrfractal" / "cluster"


def start(
    state: Path, port: int = 8265, cpus: int | None = None, gpus: int | None = None
) -> LocalCluster:
    """Start a head and wait until its job server reports a live node (about 15 s).

    Args:
        state: folder for token, record and log; created if missing.
        port: port of the dashboard and job server.
        cpus, gpus: resources that Ray schedules; by default those of the machine.

    Raises:
        CallError: a cluster is running already, the port is taken, or this is not Linux.
        CorrFractalError: Ray did not start; the message contains the last line of its log.
    """
    if not sys.platform.startswith("linux"):
        raise CallError(
            "a local cluster needs Linux; on other systems `corrfractal run` starts Ray itself"
        )
    _refuse_foreign_files(state)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    running = read(state)
    if running and processes.members(running.pid, running.born):
        raise CallError(
            f"a cluster is already running at {running.dashboard}; stop it with "
            "`corrfractal cluster down`"
        )
    _check_port(port)
    refuse_faults("ray")

    server = JobServer(
        url=f"http://{LOOPBACK}:{port}", token=_read_or_create_token(state / "token")
    )
    head, cluster = _launch(state, server, cpus, gpus)
    try:
        _await_node(head, server, state / "head.log")
    # Ctrl-C too must not leave a head behind.
    except BaseException:
        stop(state)
        raise
    return cluster


def read(state: Path) -> LocalCluster | None:
    """The cluster recorded in the state folder, running or not.

    Raises:
        CorrFractalError: the record is damaged.
    """
    record = state / "cluster.json"
    if not record.exists():
        return None
    try:
        return LocalCluster(**json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as exc:
        raise CorrFractalError(
            f"{record} is damaged; end its `ray start` process manually, then delete the file"
        ) from exc


def stop(state: Path) -> int:
    """Stop the cluster: first the drivers of its jobs, then the head, then all other processes.

    Returns:
        The number of processes that were ended.

    Raises:
        NotFoundError: no cluster is recorded in the state folder.
        CorrFractalError: a process survives SIGKILL.
    """
    cluster = read(state)
    if cluster is None:
        raise NotFoundError(f"no cluster was started from {state}; there is nothing to stop")

    members = processes.members(cluster.pid, cluster.born)
    # Ray starts the driver of each job in a session of its own.
    drivers = {pid: process for pid, process in members.items() if process.session != cluster.pid}
    processes.end(drivers, signal.SIGTERM, drivers, DRIVER_TIMEOUT_SECONDS)

    # The head ends its children. Without a head there is nothing to wait for.
    head = {pid: process for pid, process in members.items() if pid == cluster.pid}
    processes.end(head, signal.SIGTERM, members, HEAD_TIMEOUT_SECONDS if head else 0)

    # Includes processes that were started in the meantime.
    remaining = processes.alive(members) | processes.members(cluster.pid, cluster.born)
    processes.end(remaining, signal.SIGKILL, remaining, HEAD_TIMEOUT_SECONDS)
    remaining = processes.alive(remaining)
    if remaining:
        raise CorrFractalError(
            f"processes {sorted(remaining)} of the cluster survive SIGKILL; end them manually"
        )

    # The record is only a file: never delete a folder that is not one of ours.
    if Path(cluster.folder).name.startswith(RAY_FOLDER):
        shutil.rmtree(cluster.folder, ignore_errors=True)
    (state / "cluster.json").unlink()
    return len(members)


def _refuse_foreign_files(state: Path) -> None:
    """Check that files with the names of this module belong to it: a valid token proves it."""
    token = state / "token"
    if token.is_file() and TOKEN.fullmatch(
        token.read_text(encoding="utf-8", errors="replace").strip()
    ):
        return
    refuse_existing(
        (state / name for name in ("token", "cluster.json", "head.log")),
        "name another folder with --state",
    )


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError) as exc:
            raise CallError(
                f"port {port} cannot be used: {exc}; name another one with --port"
            ) from exc


def _read_or_create_token(path: Path) -> str:
    """The token in the state folder; created on first use, readable by the user only."""
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    path.chmod(0o600)
    return path.read_text().strip()


def _launch(
    state: Path, server: JobServer, cpus: int | None, gpus: int | None
) -> tuple[subprocess.Popen[bytes], LocalCluster]:
    """Start the head and record it immediately, so that it can be stopped after any failure."""
    # Not in the state folder: Ray creates its sockets in it, and a socket's path is limited to 107
    # bytes.
    folder = tempfile.mkdtemp(prefix=RAY_FOLDER, dir=os.environ.get("RAY_TMPDIR"))
    fault = session_folder_fault(folder)
    if fault is not None:
        Path(folder).rmdir()
        raise CallError(f"{folder} {fault}; set RAY_TMPDIR to a folder with a short absolute path")

    ray_port, agent_port, client_port = _free_ports(3)
    dashboard_port = server.url.rsplit(":", 1)[1]
    # -P: import nothing from the folder of the call.
    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [
        "--disable-usage-stats",
        f"--node-ip-address={LOOPBACK}",
        f"--port={ray_port}",
        f"--temp-dir={folder}",
        "--include-dashboard=true",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_port}",
        f"--ray-client-server-port={client_port}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
    ]
    if cpus is not None:
        command.append(f"--num-cpus={cpus}")
    if gpus is not None:
        command.append(f"--num-gpus={gpus}")

    with (state / "head.log").open("wb") as log:
        head = subprocess.Popen(
            command,
            env=_head_environment(state / "token"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    cluster = LocalCluster(
        pid=head.pid,
        born=processes.table()[head.pid].born,
        ray_address=f"{LOOPBACK}:{ray_port}",
        dashboard=server.url,
        folder=folder,
    )
    write_text(state / "cluster.json", json.dumps(dataclasses.asdict(cluster), indent=2) + "\n")
    return head, cluster


def _head_environment(token_file: Path) -> dict[str, str]:
    """Environment of the head, inherited by its workers and by the drivers of its jobs."""
    # PYTHONSAFEPATH is meant for our own subprocesses. A job of another program may need to import
    # modules beside its script.
    dropped = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "PYTHONSAFEPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in dropped}
    return inherited | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file.resolve()),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Otherwise listeners can bind to other interfaces than loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # By default a head waits 30 s for idle workers after SIGTERM.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


def _await_node(head: subprocess.Popen[bytes], server: JobServer, log: Path) -> None:
    """Wait until the job server reports a live node; raises if the head ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        reason: CorrFractalError | None = None
        try:
            if server.nodes():
                return
        # The token was refused: another program took the port.
        except CallError:
            raise
        # The server is not listening yet.
        except CorrFractalError as exc:
            reason = exc

        if head.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last_line = lines[-1] if lines else "(empty)"
            raise CorrFractalError(
                f"Ray did not start; see {log}, whose last line is: {last_line}"
            ) from reason
        time.sleep(0.3)
