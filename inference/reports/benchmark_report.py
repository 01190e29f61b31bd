"""The report of an evaluation of any data set: scores, sequences best first, the worst in pictures,
settings, lineage.

DAVIS has a fuller one, ``evaluation_report``, with curves and a second model beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.common.report_page import (
    Cell,
    Figure,
    Link,
    Picture,
    Section,
    Share,
    Table,
    write_report,
)
from inference.benchmarks.base import PicturedBenchmark, Result, Summary

from .davis_report import STRIP_FRAMES, Settings, settings_sections
from .pictures import overlay_strip

U8 = npt.NDArray[np.uint8]
Pair = tuple[U8, U8]

PICTURED = 24  # sequences; of thousands, the worst are what one looks for


def benchmark_report(
    path: Path,
    summary: Summary,
    results: Sequence[Result],
    benchmark: PicturedBenchmark,
    settings: Settings,
) -> None:
    """Write ``report.html``.

    Args:
        path: of the report.
        summary: scores, and the folder of the predictions.
        results: of every sequence.
        benchmark: the data set.
        settings: how it was made.
    """
    assert summary.out is not None
    best_first = sorted(
        results, key=lambda result: -1.0 if result.score is None else result.score, reverse=True
    )
    pictured = best_first[-PICTURED:]
    sections = [
        Section(title="Scores", figures=_figures(summary), table=_details(summary.to_dict())),
        Section(title="Sequences, best first", table=_sequences(best_first, pictured)),
    ]
    for result in pictured:
        strip = benchmark.strip(result, summary.out, settings.config.opacity)
        sections.append(Section(title=result.name, text=result.line, pictures=(strip,)))
    sections += settings_sections(settings)
    lead = f"Model {summary.model} on {summary.dataset}, {summary.sequences} sequence{'s' * (summary.sequences != 1)}."
    write_report(path, f"{summary.dataset}: {_headline(summary)}", sections, lead=lead)


def mask_strip(
    shown: Sequence[tuple[U8, U8, U8 | None]], stems: Sequence[str], opacity: float
) -> Picture:
    """Frames under their predicted masks, and below under the annotated ones where there are any.

    Args:
        shown: (frame, prediction, truth) of some frames.
        stems: their names.
    """
    rows: list[list[Pair]] = [[(frame, mask) for frame, mask, _ in shown]]
    annotated = all(truth is not None for *_, truth in shown)
    if annotated:
        rows.append([(frame, truth) for frame, _, truth in shown if truth is not None])
    which = "Predicted (above) and annotated (below)" if annotated else "Predicted"
    return Picture(
        data=overlay_strip(rows, opacity=opacity).data,
        caption=f"{which}, frames {', '.join(stems)}.",
    )


def later(count: int) -> range:
    """Indices of all frames but the first, which was given; of the first where there is no other."""
    return range(min(1, count - 1), count)


def some(indices: Sequence[int]) -> list[int]:
    """A few of them, evenly spread."""
    return sorted({indices[int(k)] for k in np.linspace(0, len(indices) - 1, STRIP_FRAMES).round()})


def _figures(summary: Summary) -> tuple[Figure, ...]:
    figures = [
        Figure(label=_spoken(k), value=f"{100 * v:.1f} %") for k, v in summary.measures().items()
    ]
    if summary.seconds_per_frame is not None and summary.peak_rss_mb is not None:
        figures.append(
            Figure(label="tracker, per frame", value=f"{summary.seconds_per_frame:.2f} s")
        )
        figures.append(Figure(label="peak memory", value=f"{summary.peak_rss_mb:.0f} MB"))
    return tuple(figures)


def _details(facts: dict[str, Any]) -> Table | None:
    """What ``scores.json`` holds of every part, joint or object."""
    key = next(key for key in facts if key.startswith("per_"))
    rows = {
        name: values if isinstance(values, dict) else {"%": values}
        for name, values in facts[key].items()
    }
    rows = {
        name: values
        for name, values in rows.items()
        if any(value is not None for value in values.values())
    }
    if not rows:
        return None
    columns = tuple(next(iter(rows.values())))
    cells = tuple(
        (name, *(_cell(values[column]) for column in columns)) for name, values in rows.items()
    )
    return Table(header=(key.removeprefix("per_"), *columns), rows=cells)


def _sequences(results: Sequence[Result], pictured: Sequence[Result]) -> Table:
    names = {result.name for result in pictured}
    rows: list[tuple[Cell, ...]] = [
        (
            Link(title=result.name) if result.name in names else result.name,
            _cell(result.score),
            result.frames,
        )
        for result in results
    ]
    return Table(header=("sequence", "%", "frames"), rows=tuple(rows))


def _cell(value: Any) -> Cell:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return Share(value=value) if isinstance(value, float) else str(value)


def _headline(summary: Summary) -> str:
    measures = summary.measures()
    if not measures:
        return "masks without a truth to score against"
    name, value = next(iter(measures.items()))
    return f"{_spoken(name)} {100 * value:.1f} %"


def _spoken(name: str) -> str:
    return name.replace("PCK_", "PCK@").replace("_", ", ")
