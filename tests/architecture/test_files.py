"""Properties of all files of the repository."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOMES = re.compile(r"(?<![\w.])(/home/\w+|/Users/\w+|/root/|[A-Z]:\\Users\\)")


@cache
def files() -> list[Path]:
    """The files that git tracks or would track."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def sources() -> list[Path]:
    """The Python files of the packages and benchmarks."""
    return [
        path
        for path in files()
        if path.suffix == ".py" and "tests" not in path.relative_to(ROOT).parts
    ]


def test_no_file_names_a_path_of_a_developers_machine() -> None:
    # A path such as /app, in a container, is no one's own
    here = str(ROOT) if len(ROOT.parts) > 2 else None
    found = []
    for path in files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        if path != Path(__file__) and (HOMES.search(text) or (here and here in text)):
            found.append(str(path.relative_to(ROOT)))
    assert found == []


def test_every_module_has_a_docstring() -> None:
    modules = [path for path in sources() if path.stat().st_size > 0]
    bare = [
        str(path.relative_to(ROOT))
        for path in modules
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert bare == []


def test_tests_are_no_packages() -> None:
    assert [
        path
        for path in files()
        if path.name == "__init__.py" and "tests" in path.relative_to(ROOT).parts
    ] == []


def test_nothing_is_unpickled() -> None:
    """``torch.load`` is allowed where it names its restricted unpickler, which builds tensors and
    plain values only."""
    unsafe = re.compile(
        r"^\s*(import|from) (pickle|cloudpickle|dill|joblib)\b|torch\.load\((?!.*weights_only=True)",
        re.M,
    )
    assert [
        str(path.relative_to(ROOT)) for path in sources() if unsafe.search(path.read_text("utf-8"))
    ] == []
