"""Properties of the ``corrfractal`` command as a whole."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from corrfractal.__main__ import COMMANDS, main

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


@pytest.mark.parametrize(
    ("arguments", "suggested"),
    [
        (["prcompute"], "'precompute'"),
        (["models", "shwo"], "'show'"),
        (["doctor", "--jsn"], "'--json'"),
        (["precompute", "videos", "--retry"], "'--retry-quarantined'"),
        (["evaluate", "davis", "--mdel", "starter"], "'--model'"),
        (["no-such-command"], None),
        (["doctor", "--no-such-option"], None),
    ],
)
def test_unknown_commands_and_options_exit_with_2_and_suggest_the_near_one(
    arguments: list[str], suggested: str | None
) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert (suggested or "No such") in done.stderr


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("corrfractal prec", "precompute"),
        ("corrfractal models pro", "promote"),
        ("corrfractal train shards --prof", "--profile"),
        ("corrfractal evaluate davis --model cha", "champion"),
        ("corrfractal precompute vid", "file"),
    ],
)
def test_the_shell_completes_commands_options_values_and_files(words: str, completed: str) -> None:
    *before, incomplete = words.split()
    complete = ShellComplete(main, {}, "corrfractal", "_CORRFRACTAL_COMPLETE")
    found = complete.get_completions(before[1:], incomplete)
    assert completed in {item.type if item.type == "file" else item.value for item in found}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_calls_the_command_and_loads_in_its_shell(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0, done.output
    assert f"_CORRFRACTAL_COMPLETE={shell}_complete" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)
