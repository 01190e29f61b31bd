"""The generated parts of the site hold every command, option and field, with its meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import click
import pytest
from pydantic import Field

from cluster.config import EvaluationConfig, WorkflowConfig
from corrfractal.__main__ import main
from corrfractal.common.command_line import walk_commands
from corrfractal.common.config import config_to_dict
from inference.config import InferenceConfig

pytest.importorskip("mkdocs", reason="the site needs the extra docs")

from scripts.docs_site import (
    COMMON_OPTIONS,
    commands_page,
    configuration_page,
    describe_type,
    on_page_markdown,
)


def _sections(page: str) -> dict[str, str]:
    """Heading, without its number signs and ticks -> the text below it."""
    parts = re.split(r"^#{2,4} (.*)$", page, flags=re.M)
    return {
        heading.strip("`"): text for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def _tables(values: Mapping[str, Any], table: str = "") -> Iterator[tuple[str, str]]:
    """(table, field) of all fields of a configuration in plain values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _tables(value, f"{table}.{name}".lstrip("."))
        else:
            yield table, name


def test_every_command_has_a_section_with_its_options_and_examples() -> None:
    sections = _sections(commands_page())
    commands = {" ".join(path): command for path, command in walk_commands(main) if path}
    assert sections.keys() == commands.keys()

    for name, command in commands.items():
        if isinstance(command, click.Group):
            continue
        rows = re.findall(r"^\| `([^`]*)` \| (.*) \|$", sections[name], re.M)
        listed = {word.rstrip(",") for names, _ in rows for word in names.split() if "-" in word}
        own = {opt for param in command.params for opt in param.opts if opt.startswith("-")}
        assert own - COMMON_OPTIONS <= listed | {"-v", "-q", "-h"}
        assert all(len(meaning) > 10 for _, meaning in rows)
        assert f"$ corrfractal {name}" in sections[name]


def test_every_field_has_a_row_with_its_values_default_and_meaning() -> None:
    workflow, inference = configuration_page().split("## `--set` of")
    config = WorkflowConfig(sources=("a",), out="b", evaluation=EvaluationConfig(data="c"))
    for text, fields in (
        (workflow, _tables(config_to_dict(config))),
        (inference, _tables(config_to_dict(InferenceConfig()))),
    ):
        sections = _sections("## \n" + text.partition("\n")[2])
        for table, name in fields:
            section = sections[f"[{table}]"] if table else text
            row = re.search(rf"^\| `{name}` \| (.+) \| (.+) \| (.+) \|$", section, re.M)
            assert row is not None, f"{table}.{name}"
            assert len(row[3]) > 5, f"{table}.{name}"


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (bool, "`true`, `false`"),
        (float | None, "number"),
        (Literal["a", "b"], "`a`, `b`"),
        (Annotated[int, Field(ge=2, le=9)], "integer, at least 2, at most 9"),
        (tuple[Annotated[float, Field(gt=0)], ...], "list of number, above 0"),
    ],
)
def test_types_are_said_in_words(hint: Any, words: str) -> None:
    assert describe_type(hint) == words


def test_links_between_docs_and_benchmarks_stay_in_the_site() -> None:
    decision: Any = SimpleNamespace(file=SimpleNamespace(src_uri="decisions/0001-x.md"))
    text = on_page_markdown("[a](../../benchmarks/notes.md#b)", decision)
    assert text == "[a](../measurements/notes.md#b)"
    notes: Any = SimpleNamespace(file=SimpleNamespace(src_uri="measurements/notes.md"))
    assert on_page_markdown("[a](../docs/decisions/x.md)", notes) == "[a](../decisions/x.md)"
