"""The command ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from corrfractal.common.console import command, say


def _bounds(context: click.Context, option: click.Parameter, value: str) -> tuple[int, int]:
    """``2`` -> (2, 2), ``1-4`` -> (1, 4)."""
    least_text, dash, most_text = value.partition("-")
    try:
        least = int(least_text)
        most = int(most_text) if dash else least
    except ValueError:
        least = most = 0  # refused below
    if not 1 <= least <= most:
        raise click.BadParameter(f"a number of processes, or a range such as 1-4; got {value!r}")
    return least, most


@click.command()
@click.argument("shards")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the run; an existing run is resumed.",
)
@click.option("--preset", type=click.Choice(["base", "full"]), default="base", show_default=True)
@click.option(
    "--profile",
    type=click.Choice(["gpu", "cpu"]),
    help="The paper's network, or a slim one; default: gpu if there is one.",
)
@click.option(
    "--workers",
    default="2",
    show_default=True,
    callback=_bounds,
    metavar="N|MIN-MAX",
    help="DDP processes; with a range, as many as the cluster has room for.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Length of the run; default: the epochs of the configuration.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any field of the training configuration.",
)
@click.option(
    "--max-failures",
    default=3,
    show_default=True,
    help="Restarts of failed workers; -1: no limit.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check everything and estimate the cost; start nothing."
)
@click.option(
    "--tracking-uri",
    help="MLflow store; default: MLFLOW_TRACKING_URI, else mlflow.db in this folder.",
)
@command
def train(
    shards: str,
    out: Path,
    preset: str,
    profile: str | None,
    workers: tuple[int, int],
    steps: int | None,
    settings: tuple[str, ...],
    max_failures: int,
    dry_run: bool,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Train on SHARDS with Ray Train DDP, log to MLflow, register the model as `candidate`.

    Run the same command again to resume.
    """
    import torch

    from corrfractal.registry.store import named_uri

    from .config import configuration, with_settings

    use_gpu = torch.cuda.is_available() and profile != "cpu"
    config = with_settings(
        configuration(preset, profile or ("gpu" if use_gpu else "cpu")), settings, steps
    )
    if dry_run:
        from .dryrun import dry_run as estimate_run

        estimate = estimate_run(
            shards, out, config, workers, named_uri(tracking_uri), use_gpu=use_gpu
        )
        return estimate.print_summary()

    from .run import train as train_and_register

    result = train_and_register(
        shards,
        out,
        config,
        tracking_uri=named_uri(tracking_uri),
        workers=workers,
        use_gpu=use_gpu,
        max_failures=max_failures,
    )
    metrics = result.metrics
    say(f"{result.steps} steps in {result.seconds:.0f} s; loss {metrics['loss']:.3f}")
    say(
        f"error {metrics['error']:.1%}; copying the reference's labels would give "
        f"{metrics['copy_error']:.1%}"
    )
    say(
        f"{metrics['samples_per_second']:.2f} samples/s, {metrics['data_wait']:.1%} of the time "
        "waiting for data"
    )
    say(
        f"registered as {result.model.uri} ({', '.join(result.model.aliases)}) in "
        f"{result.tracking_uri}"
    )
    say(f"model file: {result.model_file}")
    return {
        "model": result.model.uri,
        "aliases": list(result.model.aliases),
        "model_file": str(result.model_file),
        "run_id": result.model.run_id,
        "shards_digest": result.model.shards_digest,
        "tracking_uri": result.tracking_uri,
        "steps": result.steps,
        "seconds": result.seconds,
        **metrics,
    }
