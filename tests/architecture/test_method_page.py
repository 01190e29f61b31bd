"""Every file and name in docs/explanation/method.md exists, and every equation has a row."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "method.md").read_text(encoding="utf-8")
PLACES = sorted(
    set(
        re.findall(
            r"`((?:corrfractal|pipeline|training|inference|studio|cluster|benchmarks)/\S+?\.py)(?:::(\w+))?`",
            PAGE,
        )
    )
)


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_what_the_page_names_exists(file: str, name: str) -> None:
    assert (ROOT / file).is_file()
    if name:
        assert hasattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)


def test_every_equation_has_a_line() -> None:
    table = PAGE.split("## Equations")[1].split("##")[0]
    rows = [
        re.findall(r"\d+", line.split("|")[1])
        for line in table.splitlines()
        if re.match(r"\| \d", line)
    ]
    assert [int(number) for row in rows for number in row] == list(range(1, 13))
