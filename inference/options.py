"""Command-line options that ``propagate`` and ``evaluate`` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.shell_completion import CompletionItem

from corrfractal.common.command_line import PLACE, SETTINGS, Command, workers_option

if TYPE_CHECKING:
    from .config import InferenceConfig

__all__ = [
    "FILE",
    "MODEL",
    "OVERWRITE",
    "PLACE",
    "Command",
    "inference_config",
    "tracker_options",
    "workers_option",
]

# As in ``inference.load``, which imports too much for ``--help``
MODEL_NAMES = (
    "champion",
    "candidate",
    "models:/corrfractal@champion",
    "models:/corrfractal@candidate",
    "starter",
    "baseline:copy",
    "baseline:colour",
    "baseline:untrained",
)


def _complete_model(
    context: click.Context, option: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names that begin so, otherwise files."""
    names = [CompletionItem(name) for name in MODEL_NAMES if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


FILE = click.Path(path_type=Path)

OVERWRITE = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace files that this command did not write. Inputs are never replaced.",
)
MODEL = click.option(
    "--model",
    metavar="MODEL",
    shell_complete=_complete_model,
    show_default="the champion of the registry, otherwise its candidate, otherwise the starter",
    help="Safetensors file, model folder, version number or alias of the registry, "
    "models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/model, starter, or "
    "baseline:copy|colour|untrained.",
)


def tracker_options(function: Command) -> Command:
    """The options that change how labels are propagated; ``inference_config`` reads them."""
    # Decorators apply from the last to the first: --help lists them in reverse order.
    for option in (
        SETTINGS,
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
    fast: bool,
    resolution: Literal["full", "half"],
    precision: Literal["fp32", "bf16"],
    settings: tuple[str, ...] = (),
) -> InferenceConfig:
    """The configuration that ``tracker_options`` describe."""
    # Imported late: --help stays fast.
    from dataclasses import replace

    from corrfractal.common.workflow_file import with_settings
    from corrfractal.network.tracker import FAST, TrackerConfig

    from .config import InferenceConfig

    tracker = FAST if fast else TrackerConfig()
    config = InferenceConfig(tracker=replace(tracker, resolution=resolution, precision=precision))
    return with_settings(config, settings)
