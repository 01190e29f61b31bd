"""Command-line options that ``propagate`` and ``evaluate`` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from .config import InferenceConfig

Command = Callable[..., Any]

FILE = click.Path(path_type=Path)

OVERWRITE = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace files that this command did not write. Inputs are never replaced.",
)
MODEL = click.option(
    "--model",
    help="Safetensors file, MLflow model folder, models:/NAME@ALIAS, runs:/ID/model, starter, or "
    "baseline:copy|colour|untrained.  [default: the champion of the registry, otherwise its "
    "candidate, otherwise the starter]",
)


def workers_option(unit: str) -> Callable[[Command], Command]:
    """``--workers``: how many of ``unit`` are processed at once."""
    return click.option(
        "--workers",
        type=click.IntRange(min=1),
        help=f"{unit} processed at once.  [default: one per core]",
    )


def tracker_options(function: Command) -> Command:
    """The options that change how labels are propagated; ``inference_config`` reads them."""
    # Decorators apply from the last to the first: --help lists them in reverse order.
    for option in (
        click.option(
            "--precision",
            type=click.Choice(["fp32", "bf16"]),
            default="fp32",
            show_default=True,
            help="Precision of the backbone and of the memory frames.",
        ),
        click.option(
            "--resolution",
            type=click.Choice(["full", "half"]),
            default="full",
            show_default=True,
            help="half: embed frames at half their size, about four times faster, coarser.",
        ),
        click.option(
            "--fast",
            is_flag=True,
            help="Three densities instead of six: several times faster on a CPU, coarser at "
            "boundaries.",
        ),
    ):
        function = option(function)
    return function


def inference_config(
    fast: bool, resolution: Literal["full", "half"], precision: Literal["fp32", "bf16"]
) -> InferenceConfig:
    """The configuration that ``tracker_options`` describe."""
    # Imported late: --help stays fast.
    from dataclasses import replace

    from corrfractal.network.tracker import FAST, TrackerConfig

    from .config import InferenceConfig

    tracker = FAST if fast else TrackerConfig()
    return InferenceConfig(tracker=replace(tracker, resolution=resolution, precision=precision))
