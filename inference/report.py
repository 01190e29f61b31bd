"""Self-contained HTML reports: one file, pictures inside, nothing fetched, light or dark as the reader's system is.

Any stage can use it: give sections of text, tables and pictures to ``write_report``.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corrfractal.runtime import write_text


@dataclass(frozen=True, kw_only=True)
class Share:
    """A table cell that holds a fraction 0..1, shown as a percentage over a bar."""

    value: float


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number worth a large print: ``Figure(label="J&F", value="57.2 %")``."""

    label: str
    value: str


Cell = str | int | float | Share


@dataclass(frozen=True, kw_only=True)
class Table:
    """Column names and rows of cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row has {len(row)} cells, the header {len(self.header)}: {row}")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An encoded picture.

    Attributes:
        data: contents of a JPEG or PNG file.
        caption: what is to be seen, in a sentence.
    """

    data: bytes
    caption: str = ""

    @property
    def uri(self) -> str:
        """The picture as a ``data:`` address."""
        kind = "png" if self.data.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report; whatever is empty is left out. A blank line in ``text`` starts a paragraph."""

    title: str
    text: str = ""
    figures: tuple[Figure, ...] = ()
    table: Table | None = None
    pictures: tuple[Picture, ...] = field(default=())


def write_report(path: Path, title: str, sections: Sequence[Section], *, lead: str = "") -> None:
    """Render sections below a title and an opening sentence, in one atomic step."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.tests["share"] = lambda cell: isinstance(cell, Share)
    template = environment.get_template("report.html.j2")
    write_text(path, template.render(title=title, lead=lead, sections=sections))


def _cell(cell: Cell) -> str:
    if isinstance(cell, Share):
        return f"{100 * cell.value:.1f}"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
