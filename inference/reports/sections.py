"""Sections that the reports of all data sets share: cost, settings, and origin of the model."""

from __future__ import annotations

from dataclasses import dataclass

from corrfractal.common.config import config_to_dict, flatten
from corrfractal.common.report_page import Figure, Section, Table
from inference.benchmarks.results import Summary
from inference.config import InferenceConfig


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """How an evaluation was made.

    Attributes:
        config: of the propagation.
        model: facts about the model, see ``model_facts.describe_model``.
        digest: of the evaluation set, if it has one.
    """

    config: InferenceConfig
    model: dict[str, str]
    digest: str = ""


def cost_figures(summary: Summary) -> list[Figure]:
    """Time per frame and peak memory; none for predictions made elsewhere."""
    if summary.seconds_per_frame is None or summary.peak_rss_mb is None:
        return []
    return [
        Figure(label="tracker, per frame", value=format_duration(summary.seconds_per_frame)),
        Figure(label="peak memory", value=f"{summary.peak_rss_mb:.0f} MB"),
    ]


def format_duration(seconds: float) -> str:
    """Seconds, or milliseconds below 0.1 s."""
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def settings_sections(settings: ReportSettings) -> list[Section]:
    """The last sections of a report: settings of the tracker, and where the model came from."""
    rows = []
    for key, value in flatten(config_to_dict(settings.config.tracker)).items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append((key.replace("_", " "), text))
    rows.append(("settings (SHA-256)", settings.config.digest))
    if settings.digest:
        rows.append(("annotations (SHA-256)", settings.digest))

    return [
        Section(title="Settings", table=Table(header=("", ""), rows=tuple(rows))),
        Section(
            title="Where the model came from",
            table=Table(header=("", ""), rows=tuple(settings.model.items())),
        ),
    ]
