"""The command ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from corrfractal.common.console import command, say


def _bounds(context: click.Context, option: click.Parameter, value: str) -> tuple[int, int]:
    """``2`` -> (2, 2), ``1-4`` -> (1, 4)."""
    least, dash, most = value.partition("-")
    try:
        bounds = int(least), int(most if dash else least)
    except ValueError:
        bounds = (0, 0)
    if not 1 <= bounds[0] <= bounds[1]:
        raise click.BadParameter(f"a number of processes or two, such as 2 or 1-4; got {value!r}")
    return bounds


@click.command()
@click.argument("shards")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the run; the same again resumes.",
)
@click.option("--preset", type=click.Choice(["base", "full"]), default="base", show_default=True)
@click.option(
    "--profile",
    type=click.Choice(["gpu", "cpu"]),
    help="Paper's network, or a slim one; by default by device.",
)
@click.option(
    "--workers",
    default="2",
    show_default=True,
    callback=_bounds,
    metavar="N|MIN-MAX",
    help="DDP processes; 1-4: as many of these as the cluster has room for.",
)
@click.option(
    "--steps", type=click.IntRange(1), help="Length of the run; by default the preset's epochs."
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
    help="Restarts of failed workers; -1: without limit.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check everything, estimate memory; start and write nothing."
)
@click.option(
    "--tracking-uri",
    help="MLflow store; default MLFLOW_TRACKING_URI, else mlflow.db in this folder.",
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
    """Train on SHARDS with Ray Train DDP, log to MLflow, register the model as `candidate`. Run
    again to resume."""
    import torch

    from corrfractal.registry.store import named_uri

    from .config import configuration, with_settings

    use_gpu = torch.cuda.is_available() and profile != "cpu"
    config = with_settings(
        configuration(preset, profile or ("gpu" if use_gpu else "cpu")), settings, steps
    )
    if dry_run:
        from .dryrun import dry_run as rehearse

        return rehearse(
            shards, out, config, workers, named_uri(tracking_uri), use_gpu=use_gpu
        ).told()

    from .run import train as run

    result = run(
        shards, out, config, tracking_uri=named_uri(tracking_uri), workers=workers, use_gpu=use_gpu,
        max_failures=max_failures,
    )  # fmt: skip
    m = result.metrics
    say(f"{result.steps} steps in {result.seconds:.0f} s; loss {m['loss']:.3f}")
    say(f"error {m['error']:.1%}; copying the reference's labels would give {m['copy_error']:.1%}")
    say(
        f"{m['samples_per_second']:.2f} samples/s, {m['data_wait']:.1%} of the time waiting for "
        "data"
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
        **m,
    }
