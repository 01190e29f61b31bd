"""Ray on hosts: how it is started, what the submitting machine sees of it, and a ledger of what was
done to it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from hosts import Host, until

from cluster.jobs.job_server import JobServer
from corrfractal.common.errors import CorrFractalError

RAY_PORT, JOBS_PORT, CLIENT_PORT, AGENT_PORT = 6379, 8265, 10001, 52365
METRICS_PORT = 8080  # of a host's agent
METRICS_PORTS = (METRICS_PORT, 44217, 44227)  # and of the head's autoscaler and dashboard

# Short runs are measured: Ray exports metrics every ten seconds by default.
REPORTING = {"RAY_metrics_report_interval_ms": "2000"}

# A lost host is one that does not answer for three seconds, three times: Ray's own default is
# slower.
DETECTION = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    # Or a caller waits for minutes for an answer that cannot come
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    # How long a host that is cut off waits before it gives up
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
}


@dataclass(frozen=True)
class Cluster:
    """The three hosts, the shared folder, and the job server as whoever holds the token sees it."""

    hosts: tuple[Host, ...]
    shared: Path
    token: str
    token_file: Path

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def url(self) -> str:
        return f"http://{self.head.address}:{JOBS_PORT}"

    def server(self) -> JobServer:
        return JobServer(url=self.url, token=self.token)

    def alive(self) -> set[str]:
        """Addresses of the hosts that the cluster holds to be alive."""
        try:
            return {node.address for node in self.server().nodes()}
        except CorrFractalError:
            return set()

    def corrfractal(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """A ``corrfractal cluster`` command on the submitting machine, with the token."""
        return self.anyones(*arguments, "--token-file", str(self.token_file), **environment)

    def anyones(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The same without the token."""
        return subprocess.Popen(
            [sys.executable, "-m", "corrfractal", "cluster", *arguments, "--address", self.url],
            env={**clean_environment(), **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def revive(self, host: Host) -> None:
        """Plug the host in again, and let it join as the new machine that it is to Ray."""
        host.mend()
        host.kill_all()
        start_ray(host, self.head)
        until(lambda: host.address in self.alive(), 120, f"{host.name} to join again")


@dataclass
class Ledger:
    """What was tried and what it cost; printed at the end."""

    lines: list[str] = field(default_factory=list)

    def note(self, fault: str, noticed: str, recovered: str, lost: str) -> None:
        self.lines.append(f"| {fault} | {noticed} | {recovered} | {lost} |")
        print("\n" + self.lines[-1], flush=True)


def clean_environment() -> dict[str, str]:
    """The environment without a word of Ray or MLflow."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}


def healthy(host: Host) -> bool:
    """What the probe of pods and containers says of a host, asked there."""
    command = host.command(sys.executable, "-m", "cluster.jobs.probe")
    return subprocess.run(command, env=host.settings(), check=False).returncode == 0


def exported(cluster: Cluster) -> set[str]:
    """Names of the metrics that Prometheus would read of the hosts now."""
    names = set()
    for host in cluster.hosts:
        page = f"http://{host.address}:{METRICS_PORT}/metrics"
        with contextlib.suppress(OSError, HTTPException), urlopen(page, timeout=2) as answer:
            names |= set(re.findall(r"^(\w+)[{ ]", answer.read().decode(), re.MULTILINE))
    return names


def start_ray(host: Host, head: Host, cpus: int = 1) -> None:
    """Start Ray on a host: the head itself, or a host that joins it."""
    # A worker takes as many threads as it has CPUs to itself, and their number decides the order of
    # its sums: one for each, as for two workers on one machine of two CPUs.
    allowed = sorted(os.sched_getaffinity(0))
    cpu = allowed[int(host.address.rsplit(".")[-1]) % len(allowed)]
    joining = [f"--address={head.address}:{RAY_PORT}"]
    leading = [
        "--head", f"--port={RAY_PORT}", "--include-dashboard=true", f"--dashboard-host={host.address}",
        f"--dashboard-port={JOBS_PORT}",
    ]  # fmt: skip
    host.serve(
        "ray", "taskset", "--cpu-list", str(cpu),
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
        f"--node-ip-address={host.address}", f"--num-cpus={cpus}", f"--metrics-export-port={METRICS_PORT}",
        "--object-store-memory=100000000",
        *(leading if host is head else joining),
    )  # fmt: skip
