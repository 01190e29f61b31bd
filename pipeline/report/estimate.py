"""A prediction as a file, and how far it was from what a build came to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrfractal.common.errors import CallError, NotFoundError
from corrfractal.common.files import write_text
from corrfractal.common.output_guard import refuse_overlap

if TYPE_CHECKING:
    from pipeline.run import PrecomputeResult

STAGES = ("read", "open", "decode", "label", "store")
"""Hash a source; open it with a decoder; decode, scale, look for cuts and damage; pseudo-labels;
encode and write."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a build will take.

    Attributes:
        sources: videos.
        pilots: of how many of them a piece was run.
        lost: share of these that are damaged.
        clips, frames, bytes, shards: stored.
        source_bytes: read.
        core_hours: of all stages; ``stages`` has them one by one.
        bottleneck: the stage that takes most of them.
        worker_mb: peak memory of a worker, MB.
        config: ``PipelineConfig.recipe()``.
    """

    sources: int
    pilots: int
    lost: float
    clips: int
    frames: int
    bytes: int
    shards: int
    source_bytes: int
    core_hours: float
    stages: dict[str, float]
    bottleneck: str
    worker_mb: float
    config: dict[str, Any]

    def hours(self, workers: int) -> float:
        """Wall time at so many workers: as many rounds of shards as it takes, each worker on a core
        of its own."""
        rounds = -(-self.shards // workers)
        return self.core_hours * rounds / self.shards


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A quantity as predicted and as it was."""

    name: str
    predicted: float
    actual: float

    @property
    def error(self) -> float:
        """Relative to what it was; positive if too much was predicted."""
        return self.predicted / self.actual - 1 if self.actual else 0.0


def compare(prediction: Prediction, result: PrecomputeResult) -> list[Compared]:
    """Set what a build came to beside what was predicted for it.

    Shards that were there already cost nothing now, so core-hours are compared for the part that
    was made.
    """
    p = prediction
    stored = result.samples * p.config["clip"]["frames"]
    part = result.frames / stored if stored else 0.0
    return [
        Compared(name="sources", predicted=p.sources, actual=result.sources),
        Compared(name="clips", predicted=p.clips, actual=result.samples),
        Compared(name="bytes", predicted=p.bytes, actual=result.bytes),
        Compared(name="core-hours", predicted=p.core_hours * part, actual=result.core_hours),
        Compared(name="memory of a worker, MB", predicted=p.worker_mb, actual=result.worker_mb),
    ]


def lines(prediction: Prediction, workers: int) -> Iterator[str]:
    """A prediction as text."""
    p = prediction
    yield f"{p.sources} sources of {_size(p.source_bytes)}; of {p.pilots} a piece was run, {p.lost:.0%} are damaged"
    yield f"clips       {p.clips} ({p.frames} frames) in {p.shards} shards"
    yield f"stored      {_size(p.bytes)}"
    yield f"core-hours  {p.core_hours:.4g}; {_duration(p.hours(workers))} with {workers} workers"
    yield f"memory      {p.worker_mb:.0f} MB a worker, {_size(p.worker_mb * workers * 1e6)} with {workers} workers"
    shares = ", ".join(f"{stage} {hours / p.core_hours:.0%}" for stage, hours in p.stages.items())
    yield f"bottleneck  {p.bottleneck} ({shares})"


def save(prediction: Prediction, path: Path) -> None:
    """Write a prediction as JSON in one atomic step."""
    write_text(path, json.dumps(asdict(prediction), indent=1, sort_keys=True) + "\n")


def refuse_foreign(
    path: Path, inputs: Sequence[str | Path | None], *, overwrite: bool = False
) -> None:
    """Check that a prediction may be written to a file.

    Raises:
        CallError: it touches an input, or something else than a prediction is there.
    """
    refuse_overlap({"--out": path}, inputs)
    if path.is_dir():
        raise CallError(
            f"{path} is a folder: name a file for the plan, such as {path / 'prediction.json'}"
        )
    if not path.parent.is_dir():
        raise CallError(f"cannot write {path}: the folder {path.parent} does not exist")
    if os.path.lexists(path) and not overwrite:
        try:
            _read(path)
        except CallError as exc:
            raise CallError(
                f"{path} exists, and is no plan: move it away, name another file, or replace it "
                "with --overwrite. Nothing was written"
            ) from exc


def load(path: Path, config: dict[str, Any]) -> Prediction:
    """Read a prediction that was made for this configuration.

    Raises:
        NotFoundError: no such file.
        CallError: no prediction, or one for another configuration.
    """
    prediction = _read(path)
    if prediction.config != config:
        raise CallError(f"{path} was made for another configuration: run `corrfractal plan` again")
    return prediction


def _read(path: Path) -> Prediction:
    from pydantic import TypeAdapter, ValidationError  # imported late: --help stays fast

    try:
        return TypeAdapter(Prediction).validate_json(path.read_bytes())
    except FileNotFoundError as exc:
        raise NotFoundError(f"no such plan: {path}") from exc
    except ValidationError as exc:
        raise CallError(
            f"{path} is no plan: `corrfractal plan SOURCES --out {path}` writes one"
        ) from exc


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.3g} days"
    return f"{hours:.3g} h" if hours >= 1 else f"{60 * hours:.3g} min"
