"""The ``corrfractal`` command. Sub-commands are imported only when they are called, so that
``--help`` is fast.

``COMMANDS`` names modules of higher layers as text: this package imports none of them at start.
"""

from __future__ import annotations

# First of all imports: it drops the working folder, which could provide any of the others.
from .runtime import search_path  # noqa: F401  # isort: skip

import importlib
from typing import Any

import click

from corrfractal.common.command_line import examples, suggest_option
from corrfractal.runtime.process import configure_process
from corrfractal.runtime.streams import prepare_streams

# name: (module, attribute, one line for --help)
COMMANDS = {
    "demo": ("cluster.cli", "demo", "The whole workflow on rendered sample videos, in minutes."),
    "run": (
        "cluster.cli",
        "run",
        "The whole workflow on your videos, from one TOML file; resumable.",
    ),
    "plan": (
        "pipeline.cli",
        "plan",
        "Estimate clips, bytes, core-hours and memory from pieces of a few videos.",
    ),
    "precompute": (
        "pipeline.cli",
        "precompute",
        "Videos -> WebDataset shards of clips and pseudo-labels.",
    ),
    "inspect": (
        "pipeline.cli",
        "inspect",
        "Shards as people see them: contact sheet, label health, rejected inputs.",
    ),
    "verify": ("pipeline.cli", "verify", "Re-hash shards against their manifest."),
    "train": (
        "training.cli",
        "train",
        "Shards -> a trained, registered model (Ray Train DDP); resumable.",
    ),
    "models": (
        "corrfractal.registry.cli",
        "models",
        "The model registry: list, show, promote, rollback, history, export.",
    ),
    "lineage": (
        "cluster.lineage_command",
        "lineage",
        "Where a model came from; what came of a video or of shards.",
    ),
    "propagate": (
        "inference.cli",
        "propagate",
        "A video and a first-frame mask -> a mask for every frame.",
    ),
    "studio": (
        "studio.cli",
        "studio",
        "A local page to mark objects, propagate, correct and download.",
    ),
    "evaluate": (
        "inference.evaluate_cli",
        "evaluate",
        "Propagate and score a benchmark: davis, youtubevos, jhmdb or vip.",
    ),
    "score": (
        "inference.evaluate_cli",
        "score",
        "Score predictions made elsewhere: davis, youtubevos, jhmdb or vip.",
    ),
    "doctor": ("cluster.cli", "doctor", "Check this machine, and say what to do about each fault."),
    "cluster": (
        "cluster.cli",
        "cluster",
        "A Ray cluster on this machine, or jobs on any Ray cluster.",
    ),
    "completion": (
        "corrfractal.common.completion",
        "completion",
        "The script that completes commands and options in bash, zsh or fish.",
    ),
}


class LazyGroup(click.Group):
    """A click group that imports a sub-command's module only when it is called."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        prepare_streams()
        configure_process()
        return super().main(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # click reads an empty path as the working folder: `--out "$UNSET"` would write there.
        if any(not arg or (arg.startswith("--") and arg.endswith("=")) for arg in args):
            raise click.UsageError("an argument is empty: is a variable of the shell not set?")
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as exc:
            # click suggests loaded commands only.
            raise click.NoSuchCommand(exc.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as exc:
            raise suggest_option(exc) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "corrfractal demo",
        "corrfractal propagate clip.mp4 --mask first.png --out masks --video overlay.mp4",
        "corrfractal precompute videos/ --out shards",
        "corrfractal train shards --out runs/first",
        'eval "$(corrfractal completion bash)"',
    ),
)
@click.version_option(package_name="corrfractal")
def main() -> None:
    """CorrFractal: self-supervised dense video correspondence, from raw video to a scored,
    registered model."""


if __name__ == "__main__":
    main(prog_name="corrfractal")
