"""Hooks of mkdocs, which `make docs` runs: the parts of the site that are generated.

- ``<!-- generated: commands -->`` and ``<!-- generated: configuration -->`` in a page are replaced
  by what the click objects and the configuration classes say;
- ``benchmarks/results.md`` and ``benchmarks/notes.md`` become pages below ``measurements/``, the
  notebook of ``examples/`` becomes one of the tutorial, and links to them are rewritten;
- all decision records follow their index in the navigation.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click
import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from cluster.config import WorkflowConfig
from corrfractal.__main__ import main
from corrfractal.common.command_line import walk_commands
from corrfractal.common.config import Config
from inference.config import InferenceConfig

ROOT = Path(__file__).parents[1]
MEASUREMENTS = ("results.md", "notes.md")
NOTEBOOK = "tutorial/quickstart.md"

# Options of every command, which the page on commands explains once.
COMMON_OPTIONS = {"--json", "--verbose", "--quiet", "--debug", "--help"}


# What mkdocs calls


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the decision records to the navigation."""
    records = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("0*.md"))
    assert config.nav is not None
    decisions = config.nav[-1]["Explanation"][-1]["Decisions"]
    decisions += [f"decisions/{name}" for name in records]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are stored outside ``docs``."""
    for name in MEASUREMENTS:
        source = str(ROOT / "benchmarks" / name)
        files.append(File.generated(config, f"measurements/{name}", abs_src_path=source))
    for path in sorted((ROOT / "examples").glob("*.*")):
        files.append(File.generated(config, f"examples/{path.name}", abs_src_path=str(path)))
    page = notebook_page(ROOT / "examples" / "quickstart.ipynb")
    files.append(File.generated(config, NOTEBOOK, content=page))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Insert generated parts; let links to ``benchmarks`` and ``examples`` stay in the site."""
    for name, generate in GENERATED.items():
        marker = f"<!-- generated: {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, generate())
    if page.file.src_uri.startswith("measurements/"):
        return re.sub(r"\]\(\.\./docs/", "](../", markdown)
    to_root = "../" * page.file.src_uri.count("/")
    markdown = re.sub(r"\]\((\.\./)+examples/quickstart\.ipynb", f"]({to_root}{NOTEBOOK}", markdown)
    markdown = re.sub(r"\]\((\.\./)+examples/", f"]({to_root}examples/", markdown)
    return re.sub(r"\]\((\.\./)+benchmarks/(?=\w+\.md)", f"]({to_root}measurements/", markdown)


# The notebook


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its texts, code, printed outputs and pictures."""
    notebook = json.loads(path.read_text("utf-8"))
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](../docs/", "](../"))
            continue
        parts.append(f"```python\n{source}\n```")
        parts += map(_output, cell["outputs"])
    return "\n\n".join(parts) + f"\n\n[This notebook](../../examples/{path.name})\n"


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return "```text\n" + "".join(output["text"]) + "```"
    if "image/jpeg" in output["data"]:
        picture = "".join(output["data"]["image/jpeg"].split())
        return f"![Output of the cell above](data:image/jpeg;base64,{picture})"
    return "```text\n" + "".join(output["data"]["text/plain"]) + "\n```"


# Commands


def commands_page() -> str:
    """Sections for all commands, in the order of ``corrfractal --help``."""
    parts = []
    for path, command in walk_commands(main):
        if path and not isinstance(command, click.Group):
            parts.append(_command_section(path, command))
        elif len(path) == 1:
            parts.append(f"## {path[0]}\n\n{_paragraphs(command.help)}")
    return "\n\n".join(parts)


def _command_section(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(("corrfractal", *path)))
    usage = command.get_usage(context).removeprefix("Usage: ")
    rows = [_option_row(param, context) for param in command.params if _is_own_option(param)]
    lines = [f"{'#' * (len(path) + 1)} {' '.join(path)}", "", _paragraphs(command.help), ""]
    lines += ["```text", " ".join(usage.split()), "```", ""]
    if rows:
        lines += ["| option | meaning |", "|---|---|", *rows, ""]
    examples = inspect.cleandoc((command.epilog or "").replace("\b\nExamples:\n", ""))
    lines += ["```console", *(f"$ {line.strip()}" for line in examples.splitlines()), "```"]
    return "\n".join(lines)


def _is_own_option(param: click.Parameter) -> bool:
    return isinstance(param, click.Option) and not COMMON_OPTIONS & set(param.opts)


def _option_row(param: click.Parameter, context: click.Context) -> str:
    # click's own wording of names, values and defaults, as `--help` prints it.
    record = param.get_help_record(context)
    assert record is not None
    names, text = record
    # Two spaces part the meaning from "[default: (one per CPU); x>=1]".
    meaning, _, notes = text.partition("  [")
    notes = re.sub(r"^default: \((.*)\)", r"default: \1", notes.removesuffix("]"))
    ending = f" *{notes}*" if notes else ""
    return f"| `{names}` | {_cell(meaning)}{ending} |"


def _paragraphs(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("\b\n", "")


# Configuration


def configuration_page() -> str:
    """Tables of the fields of the workflow file, and of ``--set`` of `propagate`, `evaluate`."""
    workflow = "\n\n".join(_config_tables(WorkflowConfig, ""))
    inference = "\n\n".join(_config_tables(InferenceConfig, ""))
    return (
        f"## The workflow file\n\n{workflow}\n\n## `--set` of propagate and evaluate\n\n{inference}"
    )


def _config_tables(cls: type[Config], table: str) -> Iterator[str]:
    """The table of one configuration, then those of the configurations in it."""
    hints = get_type_hints(cls, include_extras=True)
    nested = {}
    rows = []
    for field in dataclasses.fields(cls):
        inner = _nested_config(hints[field.name])
        if inner is not None:
            nested[f"{table}.{field.name}".lstrip(".")] = inner
            continue
        cells = (describe_type(hints[field.name]), _default(field), _docstring(cls, field.name))
        rows.append(f"| `{field.name}` | " + " | ".join(map(_cell, cells)) + " |")

    heading = [f"### `[{table}]`", ""] if table else []
    summary = _paragraphs(cls.__doc__)
    yield "\n".join(
        [
            *heading,
            summary,
            "",
            "| field | values | default | meaning |",
            "|---|---|---|---|",
            *rows,
        ]
    )
    for name, inner in nested.items():
        yield from _config_tables(inner, name)


def _nested_config(hint: Any) -> type[Config] | None:
    for candidate in (hint, *get_args(hint)):
        if isinstance(candidate, type) and issubclass(candidate, Config):
            return candidate
    return None


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default is None:
        return "unset"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    # As TOML spells it.
    text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
    return f"`{text}`"


def describe_type(hint: Any) -> str:
    """The values that a field takes, in words: ``integer, at least 1``."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin is Annotated:
        return ", ".join([describe_type(arguments[0]), *_bounds(arguments[1:])])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(part) for part in arguments if part is not type(None))
    if origin is tuple:
        return f"list of {describe_type(arguments[0])}"
    names = {bool: "`true`, `false`", int: "integer", float: "number", str: "text"}
    return names[hint]


def _bounds(metadata: tuple[Any, ...]) -> Iterator[str]:
    for item in metadata:
        # pydantic's Field holds a list of single bounds.
        for bound in getattr(item, "metadata", [item]):
            for name, words in (
                ("ge", "at least"),
                ("gt", "above"),
                ("le", "at most"),
                ("lt", "below"),
                ("min_length", "number of entries at least"),
            ):
                if hasattr(bound, name):
                    yield f"{words} {getattr(bound, name)}"


def _docstring(cls: type, name: str) -> str:
    """The text below a field, which Python itself does not keep."""
    for owner in cls.__mro__:
        members = _module(owner.__module__).classes[owner.__name__].members
        if name in members:
            text = members[name].docstring
            assert text is not None, f"{owner.__name__}.{name} has no docstring"
            return " ".join(text.value.split()).replace("None:", "Unset:")
    raise AssertionError(f"{cls.__name__} has no field {name}")


@functools.cache
def _module(name: str) -> Any:
    """A module as its source says, without its package."""
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin)
    return griffe.visit(name, path, path.read_text("utf-8"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


GENERATED = {"commands": commands_page, "configuration": configuration_page}
