"""Who may do what on the cluster, and where it listens."""

from __future__ import annotations

import secrets
import subprocess
import sys

from hosts import CLIENT, NETWORK, Host
from mlflow_server import MlflowServer
from ray_hosts import (
    AGENT_PORT,
    CLIENT_PORT,
    JOBS_PORT,
    METRICS_PORTS,
    RAY_PORT,
    Cluster,
    clean_environment,
    healthy,
    start_ray,
)


def test_who_has_no_token_or_a_wrong_one_is_refused_in_one_sentence(cluster: Cluster) -> None:
    for environment, said in (
        ({}, "requires a token"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "refuses this token"),
    ):
        command = cluster.anyones("status", **environment)
        told = command.communicate()[0]
        assert (command.returncode, said in told) == (2, True), told
    command = cluster.corrfractal("status")
    assert command.communicate()[0].count("node 10.77.0.") == 3
    assert command.returncode == 0


def test_neither_a_driver_nor_a_host_joins_without_the_token(cluster: Cluster) -> None:
    driver = "import ray; ray.init(address='{}', _node_ip_address='{}'); print('joined')"
    for address in (
        f"{cluster.head.address}:{RAY_PORT}",
        f"ray://{cluster.head.address}:{CLIENT_PORT}",
    ):
        done = subprocess.run(
            [sys.executable, "-c", driver.format(address, CLIENT)], capture_output=True, text=True, check=False,
            env={**clean_environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
        )  # fmt: skip
        assert "joined" not in done.stdout
        assert done.returncode != 0
    stranger = Host(
        "stranger",
        f"{NETWORK}.9",
        cluster.shared.parent / "stranger",
        dict(cluster.head.environment),
    )
    stranger.start()
    (stranger.folder / "tmp" / "token").write_text(secrets.token_hex(32))
    start_ray(stranger, cluster.head)
    assert stranger.services["ray"].wait(timeout=300) != 0
    assert not healthy(stranger)
    stranger.stop()
    assert cluster.alive() == {host.address for host in cluster.hosts}


def test_the_tracking_server_takes_the_right_password_and_its_own_name_and_the_refusal_says_what_to_set(
    cluster: Cluster, mlflow: MlflowServer
) -> None:
    right = mlflow.settings["MLFLOW_TRACKING_PASSWORD"]
    assert [mlflow.answer(None), mlflow.answer("wrong"), mlflow.answer(right)] == [401, 401, 200]
    assert mlflow.answer(right, host="elsewhere.example") == 403
    listing = (sys.executable, "-m", "corrfractal", "models", "list")
    assert "no model is registered" in cluster.hosts[1].run(*listing)
    environment = {**cluster.hosts[2].settings(), "MLFLOW_TRACKING_PASSWORD": "wrong"}
    done = subprocess.run(
        cluster.hosts[2].command(*listing),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"error: the MLflow server at http://{mlflow.address} refuses the login: set MLFLOW_TRACKING_USERNAME"
    assert (done.returncode, done.stderr.startswith(said)) == (2, True), done.stderr


def test_the_probe_finds_every_host_healthy(cluster: Cluster) -> None:
    assert all(healthy(host) for host in cluster.hosts)


def test_what_takes_orders_listens_where_it_was_told_to(cluster: Cluster) -> None:
    """Ray 2.60 binds what its own processes talk over to every address of a host, and has no option
    against that; it asks for the token there too. The measure beside the token is the network's:
    docs/explanation/security.md."""
    for host in cluster.hosts:
        listeners = host.listeners()
        print(f"\n{host.name} listens on")
        print(
            *sorted(f"  {address}:{port} {program}" for address, port, program in listeners),
            sep="\n",
        )
        anywhere = {
            (port, program)
            for address, port, program in listeners
            if address in ("*", "0.0.0.0", "::")
        }
        told = {
            (address, port)
            for address, port, _ in listeners
            if address not in ("*", "0.0.0.0", "::")
        }
        assert {address for address, _ in told} <= {"127.0.0.1", host.address}
        assert {JOBS_PORT, AGENT_PORT, CLIENT_PORT}.isdisjoint(port for port, _ in anywhere)
        assert (host.address, AGENT_PORT) in told
        between = {"gcs_server", "raylet", "ray::DashboardA"}
        assert {program for port, program in anywhere if port not in METRICS_PORTS} <= between
