"""``corrfractal completion``: the script that makes a shell complete commands, options and files.

The script calls ``corrfractal`` with ``_CORRFRACTAL_COMPLETE`` set, which click answers.
"""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import get_completion_class

from .command_line import examples
from .console import command, say
from .errors import CallError

PROGRAM = "corrfractal"


@click.command(
    epilog=examples(
        'eval "$(corrfractal completion bash)"              # bash, a line of ~/.bashrc',
        'eval "$(corrfractal completion zsh)"               # zsh, a line of ~/.zshrc',
        "corrfractal completion fish | source               # fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@command
def completion(shell: str) -> dict[str, Any]:
    """Print the completion script of SHELL. It completes commands, options, their values and file
    names."""
    kind = get_completion_class(shell)
    if kind is None:
        raise CallError(f"this version of click completes nothing in {shell}")
    root = click.get_current_context().find_root().command
    script = kind(root, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source()
    say(script)
    return {"shell": shell, "script": script}
