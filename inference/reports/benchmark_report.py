"""The report of an evaluation of any data set: scores, sequences best first, pictures of the worst,
settings, origin of the model.

DAVIS has a report of its own, ``davis_report``, with curves and a second model for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corrfractal.common.report_page import Cell, Figure, Link, Section, Share, Table, write_report
from inference.benchmarks.base import AnyPicturedBenchmark
from inference.benchmarks.results import Result, Summary

from .sections import ReportSettings, cost_figures, settings_sections

MAX_PICTURED = 24  # sequences, the worst: pictures of thousands would fill gigabytes


def benchmark_report(
    path: Path,
    summary: Summary,
    results: Sequence[Result[Any]],
    benchmark: AnyPicturedBenchmark,
    settings: ReportSettings,
) -> None:
    """Write ``report.html``.

    Args:
        path: of the report.
        summary: scores, and the folder of the predictions.
        results: of every sequence.
        benchmark: the data set.
        settings: of the evaluation.
    """
    assert summary.out is not None, "an evaluation that was run has a folder"
    best_first = sorted(results, key=_rank, reverse=True)
    pictured = best_first[-MAX_PICTURED:]

    sections = [
        Section(title="Scores", figures=_figures(summary), table=_details(summary.to_dict())),
        Section(title="Sequences, best first", table=_sequences(best_first, pictured)),
    ]
    for result in pictured:
        strip = benchmark.strip(result, Path(summary.out), settings.config.opacity)
        sections.append(Section(title=result.name, text=result.scores.line, pictures=(strip,)))
    sections += settings_sections(settings)

    plural = "" if summary.sequences == 1 else "s"
    lead = f"Model {summary.model} on {summary.dataset}, {summary.sequences} sequence{plural}."
    write_report(path, f"{summary.dataset}: {_headline(summary)}", sections, lead=lead)


def _rank(result: Result[Any]) -> float:
    """Sequences that could not be scored are last."""
    ranking: float | None = result.scores.ranking
    return -1.0 if ranking is None else ranking


def _figures(summary: Summary) -> tuple[Figure, ...]:
    figures = [
        Figure(label=_label(name), value=f"{100 * value:.1f} %")
        for name, value in summary.measures().items()
    ]
    return (*figures, *cost_figures(summary))


def _details(document: dict[str, Any]) -> Table | None:
    """Scores of every part, joint or object, from the one field ``per_...`` of ``scores.json``."""
    key = next(key for key in document if key.startswith("per_"))
    rows: dict[str, dict[str, Any]] = {}
    for name, values in document[key].items():
        columns = values if isinstance(values, dict) else {"%": values}
        if any(value is not None for value in columns.values()):
            rows[name] = columns
    if not rows:
        return None

    header = (key.removeprefix("per_"), *next(iter(rows.values())))
    cells = [(name, *map(_cell, columns.values())) for name, columns in rows.items()]
    return Table(header=header, rows=tuple(cells))


def _sequences(results: Sequence[Result[Any]], pictured: Sequence[Result[Any]]) -> Table:
    linked = {result.name for result in pictured}
    rows: list[tuple[Cell, ...]] = []
    for result in results:
        name: Cell = Link(title=result.name) if result.name in linked else result.name
        rows.append((name, _cell(result.scores.ranking), result.frames))
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
    return f"{_label(name)} {100 * value:.1f} %"


def _label(name: str) -> str:
    return name.replace("PCK_", "PCK@").replace("_", ", ")
