"""A Ray cluster of three hosts with token authentication, an MLflow server with a login, a machine
that submits jobs, and a ledger of faults."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import NETWORK, Host, make_bridge, until
from mlflow_server import MlflowServer
from object_store import SETTINGS
from ray_hosts import DETECTION, REPORTING, Cluster, Ledger, start_ray


@pytest.fixture(scope="session")
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    yield ledger
    print("\n\n| fault | noticed after | work goes on after | lost |\n|---|---|---|---|")
    print("\n".join(ledger.lines), flush=True)


@pytest.fixture(scope="session")
def folder() -> Path:
    """The folder that the hosts share."""
    if "HOSTS" not in os.environ:
        pytest.exit(
            "these tests run within tests/hosts/enter.sh: `make test-cluster`", returncode=2
        )
    return Path(os.environ["HOSTS"])


@pytest.fixture(scope="session")
def bridge(folder: Path) -> None:
    """The network of the hosts."""
    make_bridge()


@pytest.fixture(scope="session")
def mlflow(folder: Path, bridge: None) -> Iterator[MlflowServer]:
    server = MlflowServer(secrets.token_hex(16))
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="session")
def cluster(folder: Path, mlflow: MlflowServer) -> Iterator[Cluster]:
    token = secrets.token_hex(32)
    token_file = folder / "token"
    token_file.write_text(token)
    token_file.chmod(0o600)
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    environment = {
        **DETECTION,
        **REPORTING,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": "/tmp/token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
        **mlflow.settings,
        **SETTINGS,
    }
    hosts = tuple(
        Host(f"host{k}", f"{NETWORK}.{k}", folder / f"host{k}", environment) for k in (1, 2, 3)
    )
    cluster = Cluster(hosts, shared, token, token_file)
    for host in hosts:
        host.start()
        own = host.folder / "tmp" / "token"
        own.write_text(token)
        own.chmod(0o600)
        start_ray(host, cluster.head)
        until(lambda host=host: host.address in cluster.alive(), 240, f"{host.name} to join")
    yield cluster
    for host in hosts:
        host.stop()
