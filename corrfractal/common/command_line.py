"""What the commands share on the command line: options with one meaning everywhere, examples of
``--help``, suggestions for misspelt options, and completion in the shell.

``tests/architecture/test_shared_options.py`` compares the options of all commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

Command = Callable[..., Any]


class Location(click.ParamType[str]):
    """A local path or a URI, as text; the shell completes it as a path."""

    name = "path|uri"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


LOCATION = Location()


class Place(Location):
    """A local path as ``Path``, or a URI as text: where a command writes. ``file://`` is a path."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from corrfractal.files.storage import place

        return place(value) if isinstance(value, str) else value


PLACE = Place()

SETTINGS = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a field of the configuration; may be repeated. A dot in KEY names a field of a "
    "nested table; VALUE is TOML, or else text.",
)

TRACKING_URI = click.option(
    "--tracking-uri",
    metavar="URI",
    show_default="MLFLOW_TRACKING_URI, otherwise mlflow.db in the working folder",
    help="MLflow store.",
)


def config_option(table: str) -> Callable[[Command], Command]:
    """``--config``: the workflow's TOML file, of which a command reads one table."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"TOML file of a workflow, as `corrfractal run` takes it: the settings are those of "
        f"its [{table}] table.",
    )


def workers_option(unit: str) -> Callable[[Command], Command]:
    """``--workers``: how many of ``unit`` are processed at once."""
    return click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="one per CPU",
        help=f"{unit} processed at once.",
    )


def examples(*lines: str) -> str:
    """The ``epilog`` of a command: calls that work as they stand."""
    # "\b" keeps click from joining the lines to a paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def walk_commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """``command`` and all commands below it, with the words that call them."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from walk_commands(child, (*path, name))


def suggest_option(error: click.NoSuchOption) -> click.NoSuchOption:
    """``error`` with better suggestions: the options that begin with what was typed, if any.

    click compares spellings only, so ``--retry`` is nearer to ``--workers`` than to
    ``--retry-quarantined``.
    """
    command = error.ctx.command if error.ctx else None
    names = [name for param in command.params for name in param.opts] if command else []
    longer = sorted(name for name in names if name.startswith(error.option_name))
    if not longer or not error.option_name.startswith("--"):
        return error
    quoted = " or ".join(repr(name) for name in longer)
    message = f"No such option {error.option_name!r}. Did you mean {quoted}?"
    return click.NoSuchOption(error.option_name, message, ctx=error.ctx)
