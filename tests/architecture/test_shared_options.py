"""An option has one meaning in all commands, and every command shows examples that parse."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict

import click
import pytest

from corrfractal.__main__ import main
from corrfractal.common.command_line import walk_commands

COMMANDS = {" ".join(path): command for path, command in walk_commands(main)}
LEAVES = {
    name: command for name, command in COMMANDS.items() if not isinstance(command, click.Group)
}

# What may differ between two commands is replaced before they are compared: the table that
# --config reads, what --workers counts, and what --out holds.
VARIABLE = {
    "--config": (r"\[\w+\] table", "[TABLE] table"),
    "--workers": (r"^(Shards|Videos|Sequences) processed", "UNITS processed"),
    "--out": (r"^(Folder|File) for .*", "PLACE for RESULTS"),
}

# `train` starts its workers at a number of its own, and takes a range.
OWN_WORKERS = {"train"}

ONE_MEANING = (
    "--config",
    "--set",
    "--out",
    "--json",
    "--workers",
    "--model",
    "--tracking-uri",
    "--overwrite",
    "--fast",
    "--resolution",
    "--precision",
    "--state",
    "--address",
    "--token-file",
    "--verbose",
    "--quiet",
    "--debug",
)


def _options(command: click.Command) -> dict[str, click.Option]:
    return {
        name: param
        for param in command.params
        if isinstance(param, click.Option)
        for name in param.opts
    }


def _meaning(name: str, option: click.Option) -> tuple[object, ...]:
    text = option.help or ""
    if name in VARIABLE:
        text = re.sub(*VARIABLE[name], text)
    if name == "--out":
        # Some places may be URIs, and some have a default.
        return (text, option.multiple, option.is_flag)
    return (text, option.metavar, option.multiple, option.is_flag, str(option.show_default))


def test_there_are_commands() -> None:
    assert {"precompute", "train", "models promote", "evaluate davis"} <= set(LEAVES)


@pytest.mark.parametrize("name", ONE_MEANING)
def test_an_option_means_the_same_in_every_command(name: str) -> None:
    meanings = defaultdict(list)
    for path, command in LEAVES.items():
        option = _options(command).get(name)
        if option is not None and not (name == "--workers" and path in OWN_WORKERS):
            meanings[_meaning(name, option)].append(path)
    assert len(meanings) == 1, dict(meanings)


def test_every_command_prints_json() -> None:
    assert [path for path, command in LEAVES.items() if "--json" not in _options(command)] == []


def test_every_command_that_reads_a_configuration_takes_set() -> None:
    for path, command in LEAVES.items():
        names = {param.name for param in command.params}
        assert not names & {"config", "config_file"} or "settings" in names, path


def test_every_option_has_a_help_text_that_ends_as_a_sentence() -> None:
    for path, command in LEAVES.items():
        for name, option in _options(command).items():
            text = (option.help or "").rstrip()
            assert text, f"{path} {name}"
            assert text.endswith((".", "...")), f"{path} {name}: {text}"


def _example_lines(command: click.Command) -> list[str]:
    """The calls among the examples, without what a shell adds around them."""
    found = re.findall(r"corrfractal [^\n#|)\"]+", command.epilog or "")
    return [line.strip() for line in found]


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_shows_examples_that_parse(path: str) -> None:
    command = LEAVES[path]
    lines = _example_lines(command)
    assert lines
    for line in lines:
        words = shlex.split(line)[1:]
        depth = len(path.split())
        assert words[:depth] == path.split()
        # Parses the arguments and runs nothing.
        command.make_context(path, words[depth:])
