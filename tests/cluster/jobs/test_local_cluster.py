"""Integration test of one real cluster: up, status, jobs, wrong tokens, loopback only, down."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.jobs import local_cluster, processes, submit
from cluster.jobs.job_server import JobServer
from corrfractal.common.errors import CallError, CorrFractalError

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a local cluster needs Linux"),
    # Ray 2.60 passes this argument to aiohttp.
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning"),
]


def up(state: Path) -> subprocess.CompletedProcess[str]:
    """`corrfractal cluster up` on a free port."""
    command = [
        sys.executable,
        "-m",
        "corrfractal",
        "cluster",
        "up",
        "--state",
        state,
        "--cpus",
        "1",
    ]
    return subprocess.run(
        [*command, "--port", str(free_port())], capture_output=True, text=True, check=False
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening_addresses(pids: set[int]) -> set[str]:
    """Local addresses, as /proc writes them, of the TCP sockets on which these processes listen."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                addresses.add(fields[1].split(":")[0])
    return addresses


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("state")
    yield folder
    if (folder / "cluster.json").exists():
        local_cluster.stop(folder)


def test_a_local_cluster_takes_jobs_with_its_token_listens_on_loopback_and_stops_cleanly(
    state: Path,
) -> None:
    started = up(state)
    cluster = local_cluster.read(state)
    assert cluster is not None, started.stderr
    assert stat.S_IMODE((state / "token").stat().st_mode) == 0o600
    server = submit.find_server(None, state, None)
    assert [node.head for node in server.nodes()] == [True]

    for token, words in ((None, "requires a token"), ("0" * 64, "refuses this token")):
        with pytest.raises(CallError, match=words):
            submit.submit(JobServer(url=cluster.dashboard, token=token), "true")
    second = up(state)
    assert (second.returncode, "already running" in second.stderr) == (2, True)

    lines: list[str] = []
    good, bad, _endless = (
        submit.submit(server, line)
        for line in ("echo hello from $((6 * 7))", "exit 3", "sleep 600")
    )
    submit.follow(server, good, lines.append)
    assert "hello from 42" in lines
    with pytest.raises(CorrFractalError, match="exit code 3"):
        submit.follow(server, bad, lines.append)
    statuses = {job.id: job.status for job in server.jobs()}
    assert (statuses[good], statuses[bad]) == ("SUCCEEDED", "FAILED")

    members = processes.members(cluster.pid, cluster.born)
    assert listening_addresses(set(members)) <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert listening_addresses(set(members))
    assert local_cluster.stop(state) >= len(members)
    assert processes.alive(members) == {}
    assert not Path(cluster.folder).exists()
    assert not (state / "cluster.json").exists()
