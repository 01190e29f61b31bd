"""A Ray head on this machine: token authentication on, every listener on loopback, stopped without
touching other Rays.

``ray start --head --block`` runs in a session of its own, so what belongs to it can be told from
any other Ray of the same user; ``ray stop`` would end them all and is not used. Linux only.

The state folder, ``~/.corrfractal/cluster`` by default, holds ``token`` (mode 0600),
``cluster.json`` and ``head.log``.
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
from corrfractal.common.files import write_text
from corrfractal.common.output_guard import refuse_existing
from corrfractal.common.surroundings import refuse_faults
from corrfractal.common.variable_tests import session_folder_fault

from . import processes
from .job_server import JobServer

LOOPBACK = "127.0.0.1"
RAY_FOLDER = "corrfractal-ray-"
TOKEN = re.compile("[0-9a-f]{64}")
START_SECONDS = 180.0  # usually 10 to 20; a machine that is busy with other work takes long
DRIVER_SECONDS = 10.0  # a driver that gets SIGTERM closes its stage, so that the job can be resumed
HEAD_SECONDS = 15.0
OBJECT_STORE_BYTES = 512 << 20  # frames never travel through it


@dataclass(frozen=True, kw_only=True)
class LocalCluster:
    """A head that ``start`` started.

    Attributes:
        pid: process id of the head, and id of the session that it opened.
        born: when that process began, see ``processes.Process``.
        ray_address: where Ray drivers connect, ``host:port``.
        dashboard: URL of the dashboard and job server.
        folder: Ray's session files and logs; removed by ``stop``.
    """

    pid: int
    born: str
    ray_address: str
    dashboard: str
    folder: str


def default_state() -> Path:
    """The state folder used when none is named."""
    return Path.home() / ".corrfractal" / "cluster"


def start(
    state: Path, port: int = 8265, cpus: int | None = None, gpus: int | None = None
) -> LocalCluster:
    """Start a head and wait until its job server answers and names a living node (about 15 s).

    Args:
        state: folder for the token, the record and the log; made if missing.
        port: of the dashboard and job server.
        cpus, gpus: what Ray may hand out; by default what it finds.

    Raises:
        CallError: one is running already, the port is taken, or this is not Linux.
        CorrFractalError: Ray did not start; the end of its log is in the message.
    """
    if not sys.platform.startswith("linux"):
        raise CallError(
            "a local cluster needs Linux; elsewhere `corrfractal run` starts Ray by itself"
        )
    _refuse_foreign(state)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    running = read(state)
    if running and processes.members(running.pid, running.born):
        raise CallError(
            f"a cluster is running already at {running.dashboard}; `corrfractal cluster down` "
            "stops it"
        )
    _check_port(port)
    refuse_faults("ray")
    server = JobServer(url=f"http://{LOOPBACK}:{port}", token=_token(state / "token"))
    head, cluster = _launch(state, server, cpus, gpus)
    try:
        _await_node(head, server, state / "head.log")
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
            f"{record} is damaged; end its `ray start` process by hand, then remove the file"
        ) from exc


def stop(state: Path) -> int:
    """Stop what ``start`` started: first the drivers of jobs, then the head. Return the number of
    processes ended.

    Raises:
        NotFoundError: no cluster is recorded in the state folder.
        CorrFractalError: a process outlives SIGKILL.
    """
    cluster = read(state)
    if cluster is None:
        raise NotFoundError(f"no cluster was started from {state}; there is nothing to stop")
    ours = processes.members(cluster.pid, cluster.born)
    drivers = {pid: process for pid, process in ours.items() if process.session != cluster.pid}
    head = {pid: process for pid, process in ours.items() if pid == cluster.pid}
    processes.end(drivers, signal.SIGTERM, drivers, DRIVER_SECONDS)
    processes.end(head, signal.SIGTERM, ours, HEAD_SECONDS if head else 0)
    left = processes.alive(ours) | processes.members(cluster.pid, cluster.born)
    processes.end(left, signal.SIGKILL, left, HEAD_SECONDS)
    left = processes.alive(left)
    if left:
        raise CorrFractalError(
            f"processes {sorted(left)} of the cluster do not end; end them by hand"
        )
    if Path(cluster.folder).name.startswith(RAY_FOLDER):  # whatever the record may say
        shutil.rmtree(cluster.folder, ignore_errors=True)
    (state / "cluster.json").unlink()
    return len(ours)


def _refuse_foreign(state: Path) -> None:
    """Check that a state folder holds no file of our names without a token of ours."""
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


def _token(path: Path) -> str:
    """The token in the state folder, made on first use; only the user may read it."""
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    path.chmod(0o600)
    return path.read_text().strip()


def _launch(
    state: Path, server: JobServer, cpus: int | None, gpus: int | None
) -> tuple[subprocess.Popen[bytes], LocalCluster]:
    """Start the head's process and record it at once, so that it can be stopped whatever happens
    next."""
    # Not in the state folder: Ray's sockets are made in it, and the path of a socket holds 107
    # bytes at most.
    folder = tempfile.mkdtemp(prefix=RAY_FOLDER, dir=os.environ.get("RAY_TMPDIR"))
    if (fault := session_folder_fault(folder)) is not None:
        Path(folder).rmdir()
        raise CallError(f"{folder} {fault}; set RAY_TMPDIR to a folder with a short absolute path")
    ray_port, agent_port, client_port = _free_ports(3)
    port = server.url.rsplit(":", 1)[1]
    with (state / "head.log").open("wb") as log:
        head = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                "--disable-usage-stats",
                *(f"--node-ip-address={LOOPBACK}", f"--port={ray_port}", f"--temp-dir={folder}"),
                *(
                    "--include-dashboard=true",
                    f"--dashboard-host={LOOPBACK}",
                    f"--dashboard-port={port}",
                ),
                *(
                    f"--dashboard-agent-listen-port={agent_port}",
                    f"--ray-client-server-port={client_port}",
                ),
                f"--object-store-memory={OBJECT_STORE_BYTES}",
                *([] if cpus is None else [f"--num-cpus={cpus}"]),
                *([] if gpus is None else [f"--num-gpus={gpus}"]),
            ],
            env=_environment(state / "token"),
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


def _environment(token_file: Path) -> dict[str, str]:
    """The environment of the head; its workers and the drivers of its jobs inherit it."""
    # PYTHONSAFEPATH is for our own children: a job of another program may import what is beside its
    # script.
    dropped = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "PYTHONSAFEPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in dropped}
    return inherited | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file.resolve()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # no listener beyond loopback
        # A head that gets SIGTERM would wait 30 s for idle workers
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
    deadline = time.monotonic() + START_SECONDS
    while True:
        reason: CorrFractalError | None = None
        try:
            if server.nodes():
                return
        except CallError:
            raise  # another program took the port: it does not know our token
        except CorrFractalError as exc:
            reason = exc  # not listening yet
        if head.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [
                "(empty)"
            ]
            raise CorrFractalError(
                f"Ray did not start; see {log}, whose last line is: {lines[-1]}"
            ) from reason
        time.sleep(0.3)
