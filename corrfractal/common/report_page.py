"""Self-contained HTML reports: one file, pictures inside, nothing fetched, light or dark as the
reader's system is.

Any stage can use it: give sections of text, tables and pictures to ``write_report``.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corrfractal.files.output_guard import write_page
from corrfractal.files.storage import Location


@dataclass(frozen=True, kw_only=True)
class Share:
    """A table cell that holds a fraction 0..1, shown as a percentage over a bar."""

    value: float


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number in large print: ``Figure(label="J&F", value="57.2 %")``.

    Attributes:
        label: above the number.
        value: the number with its unit.
        note: in small print after the number.
        share: 0..1, drawn as a bar below the number.
    """

    label: str
    value: str
    note: str = ""
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Delta:
    """A table cell that holds a difference of two fractions, shown in points of a hundred with its
    sign."""

    value: float


@dataclass(frozen=True, kw_only=True)
class Link:
    """A table cell that leads to a section of the same report by its title."""

    title: str


@dataclass(frozen=True, kw_only=True)
class Number:
    """A table cell that holds a formatted number; ``warn`` highlights it."""

    text: str
    warn: bool = False


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A table cell or remark that holds a word in a box; ``warn`` highlights it."""

    text: str
    warn: bool = False


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A table cell that holds shares of a total, drawn as parts of one bar, the first darkest."""

    shares: tuple[float, ...]


Cell = str | int | float | Share | Delta | Link | Number | Tag | Stack


@dataclass(frozen=True, kw_only=True)
class Table:
    """Column names and rows of cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"a row has {len(row)} cells, the header {len(self.header)}: {row}"
                )


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
class Curve:
    """A line of a chart: a value 0..1 for every frame, the first of them ``start``; CSS ``color``;
    maybe dotted."""

    label: str
    values: tuple[float, ...]
    color: str
    start: int = 1
    dotted: bool = False
    faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over frames, drawn as SVG by the template; ``marks`` are frames to point at."""

    curves: tuple[Curve, ...]
    caption: str = ""
    marks: tuple[int, ...] = ()

    WIDTH, HEIGHT, LEFT, BOTTOM = 1000, 220, 40, 24

    @property
    def last(self) -> int:
        """The last frame of any curve."""
        return max(curve.start + len(curve.values) - 1 for curve in self.curves)

    def x(self, frame: float) -> float:
        """Place of a frame across."""
        return round(self.LEFT + (self.WIDTH - self.LEFT - 8) * frame / max(self.last, 1), 1)

    def y(self, value: float) -> float:
        """Place of a value downwards."""
        return round(8 + (self.HEIGHT - self.BOTTOM - 8) * (1 - value), 1)

    def points(self, curve: Curve) -> str:
        """A curve as the points of an SVG polyline."""
        return " ".join(
            f"{self.x(curve.start + t)},{self.y(value)}" for t, value in enumerate(curve.values)
        )

    @property
    def ticks(self) -> list[int]:
        """Frames to write below: a handful of round numbers."""
        step = next(
            step
            for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**6)
            if self.last / step <= 12
        )
        return list(range(0, self.last + 1, step))


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Shares 0..1 drawn as columns side by side, numbered from 1."""

    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """Small pictures in rows, with a line of text below.

    Attributes:
        rows: pictures side by side, of the same number in each row; PNG is drawn without smoothing.
        title: in bold.
        details: after the title.
        tags: remarks after the details.
    """

    rows: tuple[tuple[Picture, ...], ...]
    title: str
    details: tuple[str, ...] = ()
    tags: tuple[Tag, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report; whatever is empty is left out. A blank line in ``text`` starts a
    paragraph."""

    title: str
    text: str = ""
    figures: tuple[Figure, ...] = ()
    columns: Columns | None = None
    cards: tuple[Card, ...] = ()
    table: Table | None = None
    charts: tuple[Chart, ...] = ()
    pictures: tuple[Picture, ...] = field(default=())


def write_report(
    path: Location, title: str, sections: Sequence[Section], *, lead: str = "", wide: bool = False
) -> None:
    """Write sections below a title and an opening sentence; atomic, see ``write_page``.

    Args:
        path: the HTML file, local or at a URI.
        title: heading and name of the page.
        sections: in order.
        lead: opening sentence.
        wide: give pictures and tables more width than text needs.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    for kind in (Share, Delta, Link, Number, Tag, Stack):
        environment.tests[f"{kind.__name__.lower()}_cell"] = lambda cell, kind=kind: isinstance(
            cell, kind
        )
    template = environment.get_template("report_page.html.j2")
    write_page(path, template.render(title=title, lead=lead, sections=sections, wide=wide))


def _cell(cell: Cell) -> str:
    if isinstance(cell, Share):
        return f"{100 * cell.value:.1f}"
    if isinstance(cell, Delta):
        return f"{100 * cell.value:+.1f}"
    if isinstance(cell, Link):
        return cell.title
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
