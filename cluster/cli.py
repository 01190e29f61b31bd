"""The commands ``demo``, ``run``, ``doctor`` and ``cluster up|submit|status|down``.

Heavy modules are imported when a command runs, to keep ``--help`` fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from corrfractal.common.command_line import SETTINGS, examples
from corrfractal.common.console import command, say

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(epilog=examples("corrfractal demo", "corrfractal demo --out trial --json"))
@click.option(
    "--out",
    type=FOLDER,
    default=Path("demo"),
    show_default=True,
    help="Folder for all outputs.",
)
@command
def demo(out: Path) -> dict[str, Any]:
    """Run the whole workflow on rendered sample videos: precompute, train, register, propagate,
    score, report."""
    from .workflow import demo

    return demo(out)


@click.command(
    epilog=examples(
        "corrfractal run workflow.toml",
        "corrfractal run workflow.toml --set training.steps=300 --set precompute.size=128",
    )
)
@click.argument("config", type=FILE)
@SETTINGS
@command
def run(config: Path, settings: tuple[str, ...]) -> dict[str, Any]:
    """Run the whole workflow on your videos, from one TOML file. Run it again to resume."""
    from .workflow import run

    return run(config, settings)


@click.command(epilog=examples("corrfractal doctor", "corrfractal doctor --out /data/runs --json"))
@click.option(
    "--out",
    type=FOLDER,
    default=Path(),
    show_default="the working folder",
    help="Folder for the outputs of other commands; nothing is written.",
)
@command
def doctor(out: Path) -> dict[str, Any]:
    """Check this machine and print how to fix each fault. Exit code 1 if there is a fault."""
    from cluster.doctor.checks import examine, report

    return report(examine(out))


@click.group()
def cluster() -> None:
    """Start a Ray cluster on this machine, or submit jobs to any Ray cluster."""


def _state_option(function: Any) -> Any:
    return click.option(
        "--state",
        type=FOLDER,
        default=None,
        show_default="~/.corrfractal/cluster",
        help="Folder of token, record and log.",
    )(function)


def _server_options(function: Any) -> Any:
    address = click.option(
        "--address", metavar="URL", show_default="the local cluster", help="Job server."
    )
    token = click.option("--token-file", type=FILE, help="File that holds the cluster's token.")
    return _state_option(address(token(function)))


@cluster.command(epilog=examples("corrfractal cluster up", "corrfractal cluster up --cpus 8"))
@click.option(
    "--port", default=8265, show_default=True, help="Port of the dashboard and job server."
)
@click.option(
    "--cpus", type=click.IntRange(min=1), show_default="all", help="Number of CPUs to use."
)
@click.option(
    "--gpus", type=click.IntRange(min=0), show_default="all", help="Number of GPUs to use."
)
@_state_option
@command
def up(port: int, cpus: int | None, gpus: int | None, state: Path | None) -> dict[str, Any]:
    """Start a local cluster: loopback only, with token authentication."""
    from .jobs import local_cluster

    state = state or local_cluster.default_state()
    started = local_cluster.start(state, port=port, cpus=cpus, gpus=gpus)
    say(f"cluster up: jobs and dashboard at {started.dashboard}, Ray at {started.ray_address}")
    say(f"token in {state / 'token'}; to run a workflow: corrfractal cluster submit CONFIG.toml")
    return {
        "dashboard": started.dashboard,
        "ray_address": started.ray_address,
        "token_file": str(state / "token"),
    }


@cluster.command(
    epilog=examples(
        "corrfractal cluster submit workflow.toml",
        "corrfractal cluster submit workflow.toml --address http://127.0.0.1:8265 --no-wait",
    )
)
@click.argument("config", type=FILE)
@SETTINGS
@click.option("--no-wait", is_flag=True, help="Print the job's id and return immediately.")
@_server_options
@command
def submit(
    config: Path,
    settings: tuple[str, ...],
    no_wait: bool,
    address: str | None,
    token_file: Path | None,
    state: Path | None,
) -> dict[str, Any]:
    """Submit `corrfractal run CONFIG` as a job, and print its output until it ends."""
    from .jobs import local_cluster
    from .jobs import submit as jobs

    server = jobs.find_server(address, state or local_cluster.default_state(), token_file)
    job = jobs.submit(server, jobs.entrypoint(config, settings))
    say(f"submitted job {job} to {server.url}")
    if not no_wait:
        jobs.follow(server, job, say)
        say(f"job {job} succeeded")
    return {"job": job, "address": server.url, "status": "SUBMITTED" if no_wait else "SUCCEEDED"}


@cluster.command(epilog=examples("corrfractal cluster status"))
@_server_options
@command
def status(address: str | None, token_file: Path | None, state: Path | None) -> dict[str, Any]:
    """List the cluster's nodes and jobs."""
    import dataclasses

    from .jobs import local_cluster
    from .jobs import submit as jobs

    server = jobs.find_server(address, state or local_cluster.default_state(), token_file)
    nodes = server.nodes()
    submitted = server.jobs()
    for node in nodes:
        cpus = node.resources.get("CPU", 0)
        gpus = node.resources.get("GPU", 0)
        say(f"node {node.address}  {cpus:g} CPUs  {gpus:g} GPUs{'  head' if node.head else ''}")
    for job in submitted:
        say(f"job  {job.id}  {job.status}  {job.entrypoint}")
    return {
        "address": server.url,
        "nodes": [dataclasses.asdict(node) for node in nodes],
        "jobs": [dataclasses.asdict(job) for job in submitted],
    }


@cluster.command(epilog=examples("corrfractal cluster down"))
@_state_option
@command
def down(state: Path | None) -> dict[str, Any]:
    """Stop the local cluster that `up` started, including its jobs. Other Ray clusters keep
    running."""
    from .jobs import local_cluster

    ended = local_cluster.stop(state or local_cluster.default_state())
    say(f"cluster down: {ended} processes ended")
    return {"processes": ended}
