"""Code on the pages: Python compiles and its imports exist, TOML parses, commands take what they
are given."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from corrfractal.__main__ import main

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)

# What a shell takes as the end of a call.
ENDS = {"|", ">", ">>", "&&", "||", ";", "<", "&", ")"}


def _blocks(*languages: str) -> list[Any]:
    """(code) of all blocks of these languages, named by page and number."""
    found = []
    for page in PAGES:
        for number, (indent, language, code) in enumerate(FENCE.findall(page.read_text("utf-8"))):
            if language in languages:
                name = f"{page.relative_to(ROOT)}:{number}"
                text = re.sub(f"^{indent}", "", code, flags=re.M)
                found.append(pytest.param(text, id=name))
    return found


def _calls(code: str) -> Iterator[tuple[list[str], list[str]]]:
    """The calls of ``corrfractal`` in a block of shell commands and output.

    Each as its words after ``corrfractal``, and the names of options that a synopsis shows in
    brackets: ``[--year 2017|2016]``.
    """
    joined = code.replace("\\\n", " ")
    for line in joined.splitlines():
        match = re.match(r"(?:\$ )?(?:\w+=\S+ )*corrfractal (.*)", line.strip())
        if match is None:
            continue
        optional = re.findall(r"\[(-[\w-]+)[^]]*\]", match[1])
        text = re.sub(r"\[-[\w-]+[^]]*\]", "", match[1])
        lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        end = next((i for i, word in enumerate(words) if word in ENDS), len(words))
        yield words[:end], optional


def _parse(words: list[str], optional: list[str]) -> None:
    """Parse a call as the command does, and run nothing.

    Raises:
        click.ClickException: there is no such command or option, or a value does not suit it.
    """
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, child, words = command.resolve_command(context, words)
        assert child is not None, name
        command = child
        context = click.Context(command, parent=context, info_name=name)
    names = {name for param in command.params for name in param.opts}
    assert set(optional) <= names
    if not isinstance(command, click.Group):
        command.make_context(command.name, words)


def test_there_is_code_of_each_kind() -> None:
    calls = [call for param in _blocks("", "console", "bash") for call in _calls(param.values[0])]
    assert len(calls) > 40
    assert len(_blocks("python")) > 8
    assert len(_blocks("toml")) >= 2


@pytest.mark.parametrize("code", _blocks("python"))
def test_python_compiles_and_its_imports_exist(code: str) -> None:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
        # Names of this package, such as corrfractal.shards.open
        if isinstance(node, ast.Attribute):
            path = ast.unparse(node)
            if re.fullmatch(r"corrfractal(\.\w+)+", path):
                value: object = importlib.import_module("corrfractal")
                for name in path.split(".")[1:]:
                    value = getattr(value, name)


@pytest.mark.parametrize("code", _blocks("toml"))
def test_toml_parses(code: str) -> None:
    assert tomllib.loads(code)


@pytest.mark.parametrize("code", _blocks("", "console", "bash", "text"))
def test_every_call_parses_with_the_options_of_its_command(code: str) -> None:
    for words, optional in _calls(code):
        if "..." not in words:
            _parse(words, optional)
