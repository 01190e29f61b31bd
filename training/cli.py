"""The command ``train``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from corrfractal.common.command_line import (
    LOCATION,
    SETTINGS,
    TRACKING_URI,
    config_option,
    examples,
)
from corrfractal.common.console import command, say

# Options that ``training.local`` shares
OUT = click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the run; an existing run is resumed.",
)
PRESET = click.option(
    "--preset",
    type=click.Choice(["base", "full", "paper"]),
    show_default="base",
    help="base: the previous frame as reference; full: five frames; paper: base, with <q, k> / "
    "sqrt(C) instead of the cosine.",
)
PROFILE = click.option(
    "--profile",
    type=click.Choice(["gpu", "cpu"]),
    show_default="gpu if there is one, otherwise cpu",
    help="The paper's network, or a slim one.",
)
STEPS = click.option(
    "--steps",
    type=click.IntRange(1),
    show_default="the epochs of the configuration",
    help="Length of the run.",
)


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


@click.command(
    epilog=examples(
        "corrfractal train shards --out runs/first",
        "corrfractal train shards --out runs/slim --profile cpu --steps 300 --workers 1",
        "corrfractal train s3://bucket/shards --out s3://bucket/runs/full --preset full --workers 1-8",
        "corrfractal train shards --out runs/first --set network.width=32 --dry-run",
    )
)
@click.argument("shards", type=LOCATION)
@click.option(
    "--out",
    required=True,
    type=LOCATION,
    help="Folder for the run; an existing run is resumed.",
)
@PRESET
@PROFILE
@click.option(
    "--workers",
    default="2",
    show_default=True,
    callback=_bounds,
    metavar="N|MIN-MAX",
    help="DDP processes run at once; with a range, as many as the cluster has room for.",
)
@STEPS
@config_option("training")
@SETTINGS
@click.option(
    "--max-failures",
    default=3,
    show_default=True,
    help="Restarts of failed workers; -1: no limit.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check everything and estimate the cost; start nothing."
)
@TRACKING_URI
@command
def train(
    shards: str,
    out: str,
    preset: str | None,
    profile: str | None,
    workers: tuple[int, int],
    steps: int | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    max_failures: int,
    dry_run: bool,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Train on SHARDS with Ray Train DDP, log to MLflow, register the model as `candidate`.

    Run the same command again to resume.
    """
    import torch

    from corrfractal.files import storage
    from corrfractal.registry.store import named_uri

    from .config import requested_configuration

    place = storage.place(out)

    # 1. What is asked for
    gpu = torch.cuda.is_available()
    config, profile = requested_configuration(
        config_file, settings, preset=preset, profile=profile, steps=steps, gpu=gpu
    )
    use_gpu = gpu and profile != "cpu"

    # 2. Estimate, or train.
    if dry_run:
        from .dryrun import dry_run as estimate_run

        estimate = estimate_run(
            shards, place, config, workers, named_uri(tracking_uri), use_gpu=use_gpu
        )
        return estimate.print_summary()

    from corrfractal.registry.pages import browse_hint

    from .run import train as train_and_register

    result = train_and_register(
        shards,
        place,
        config,
        tracking_uri=named_uri(tracking_uri),
        workers=workers,
        use_gpu=use_gpu,
        max_failures=max_failures,
    )
    metrics = result.metrics
    say_result(result.steps, result.seconds, metrics)
    say(
        f"registered as {result.model.uri} ({', '.join(result.model.aliases)}) in "
        f"{result.tracking_uri}"
    )
    say(f"MLflow: {browse_hint(result.tracking_uri)}")
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


def say_result(steps: int, seconds: float, metrics: Mapping[str, float]) -> None:
    """Print how a run ended.

    Args:
        steps: length of the run.
        seconds: duration of the call.
        metrics: of the last log line.
    """
    say(f"{steps} steps in {seconds:.0f} s; loss {metrics['loss']:.3f}")
    say(
        f"error {metrics['error']:.1%}; copying the reference's labels would give "
        f"{metrics['copy_error']:.1%}"
    )
    say(
        f"{metrics['samples_per_second']:.2f} samples/s, {metrics['data_wait']:.1%} of the time "
        "waiting for data"
    )
