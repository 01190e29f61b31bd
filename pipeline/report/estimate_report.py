"""An estimate as text, as a file, and compared with the finished build."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from corrfractal.common.errors import CallError, NotFoundError
from corrfractal.files.atomic import write_text
from corrfractal.files.output_guard import refuse_overlap

from .build_result import PrecomputeResult
from .estimate import Estimate


def lines(estimate: Estimate, workers: int) -> Iterator[str]:
    """An estimate as text, with the wall time and memory of so many workers."""
    hours = _duration(estimate.hours(workers))
    memory = _size(estimate.worker_mb * workers * 1e6)
    shares = ", ".join(
        f"{stage} {stage_hours / estimate.core_hours:.0%}"
        for stage, stage_hours in estimate.stages.items()
    )
    yield (
        f"{estimate.sources} sources of {_size(estimate.source_bytes)}; a piece of "
        f"{estimate.pilots} of them was run, {estimate.lost:.0%} are damaged"
    )
    yield f"clips       {estimate.clips} ({estimate.frames} frames) in {estimate.shards} shards"
    yield f"stored      {_size(estimate.bytes)}"
    yield f"core-hours  {estimate.core_hours:.4g}; {hours} with {workers} workers"
    yield f"memory      {estimate.worker_mb:.0f} MB a worker, {memory} with {workers} workers"
    yield f"bottleneck  {estimate.bottleneck} ({shares})"


@dataclass(frozen=True, kw_only=True)
class ComparedQuantity:
    """A quantity as estimated and as measured."""

    name: str
    estimated: float
    actual: float

    @property
    def error(self) -> float:
        """Relative to the actual value; positive if the estimate was too high."""
        return self.estimated / self.actual - 1 if self.actual else 0.0


def compare(estimate: Estimate, result: PrecomputeResult) -> list[ComparedQuantity]:
    """Compare an estimate with the build.

    Shards that were complete before the run took no time, so core-hours are compared for the built
    part only.
    """
    stored_frames = result.samples * estimate.config["clip"]["frames"]
    built_part = result.frames / stored_frames if stored_frames else 0.0
    pairs = {
        "sources": (estimate.sources, result.sources),
        "clips": (estimate.clips, result.samples),
        "bytes": (estimate.bytes, result.bytes),
        "core-hours": (estimate.core_hours * built_part, result.core_hours),
        "memory of a worker, MB": (estimate.worker_mb, result.worker_mb),
    }
    return [
        ComparedQuantity(name=name, estimated=estimated, actual=actual)
        for name, (estimated, actual) in pairs.items()
    ]


def save(estimate: Estimate, path: Path) -> None:
    """Write an estimate as JSON, atomically."""
    write_text(path, json.dumps(asdict(estimate), indent=1, sort_keys=True) + "\n")


def load(path: Path, config: dict[str, Any]) -> Estimate:
    """Read an estimate that was made for this configuration.

    Raises:
        NotFoundError: the file does not exist.
        CallError: the file is no estimate, or one for another configuration.
    """
    estimate = _read(path)
    if estimate.config != config:
        raise CallError(
            f"the estimate {path} was made for another configuration: run `corrfractal plan` again"
        )
    return estimate


def refuse_foreign(
    path: Path, inputs: Sequence[str | Path | None], *, overwrite: bool = False
) -> None:
    """Check that an estimate may be written to ``path``.

    Raises:
        CallError: ``path`` overlaps an input, is a folder, or exists and is no estimate.
    """
    refuse_overlap({"--out": path}, inputs)
    if path.is_dir():
        raise CallError(
            f"{path} is a folder: name a file for the estimate, such as {path / 'estimate.json'}"
        )
    if not path.parent.is_dir():
        raise CallError(
            f"cannot write {path}: the folder {path.parent} does not exist; create it, or name "
            "another file"
        )
    if os.path.lexists(path) and not overwrite:
        try:
            _read(path)
        except CallError as exc:
            raise CallError(
                f"{path} exists, and is no estimate: move it away, name another file, or replace "
                "it with --overwrite. Nothing was written"
            ) from exc


def _read(path: Path) -> Estimate:
    try:
        return TypeAdapter(Estimate).validate_json(path.read_bytes())
    except FileNotFoundError as exc:
        raise NotFoundError(
            f"no such estimate: {path}; `corrfractal plan SOURCES --out {path}` writes one"
        ) from exc
    except ValidationError as exc:
        raise CallError(
            f"{path} is no estimate: `corrfractal plan SOURCES --out {path}` writes one"
        ) from exc


def _size(count: float) -> str:
    """Bytes with a decimal prefix."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.3g} days"
    if hours >= 1:
        return f"{hours:.3g} h"
    return f"{60 * hours:.3g} min"
