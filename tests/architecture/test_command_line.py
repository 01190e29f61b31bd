"""Properties of the ``corrfractal`` command as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from corrfractal.__main__ import COMMANDS

HEAVY = (
    "torch",
    "ray",
    "mlflow",
    "cv2",
    "faiss",
    "numpy",
    "sklearn",
    "matplotlib",
    "av",
    "decord",
    "pydantic",
)

# In one fresh process: the help of every command and sub-command, and what was imported for it.
PROBE = f"""
import sys
import click
from corrfractal.__main__ import COMMANDS, main

def visit(command, path):
    try:
        command.main([*path[1:], "--help"] if command is main else ["--help"], prog_name=" ".join(path))
    except SystemExit as exc:
        assert exc.code in (0, None), (path, exc.code)
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    assert not heavy, f"`{{' '.join(path)}} --help` imports {{heavy}}"
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            visit(command.get_command(context, name), [*path, name])

visit(main, ["corrfractal"])
print("visited", len(COMMANDS))
"""


def test_the_help_of_every_command_answers_and_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"visited {len(COMMANDS)}" in done.stdout


def test_a_call_that_is_wrong_exits_with_2_and_one_line() -> None:
    command = [sys.executable, "-m", "corrfractal", "cluster", "submit", "no-such-file.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no-such-file.toml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["no-such-command"], ["doctor", "--no-such-option"]])
def test_unknown_commands_and_options_exit_with_2(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "corrfractal", *arguments]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
