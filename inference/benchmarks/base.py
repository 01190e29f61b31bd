"""What every evaluation shares, whatever it measures: a stored result per sequence, and what
``run.py`` asks of it.

A data set is a ``Benchmark``: it names its sequences, turns one of them into a result, and sums
results up. Results are stored in ``sequences/<name>.json``; one is taken as it is while its digest
fits and the note in ``written/<name>.jsonl`` shows that nobody changed it or a prediction.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from corrfractal.common.config import digest
from corrfractal.common.console import say
from corrfractal.common.errors import CallError, CorrFractalError, NotFoundError
from corrfractal.common.output_guard import Written
from corrfractal.common.report_page import Picture
from inference.config import InferenceConfig
from inference.load import ModelSource
from inference.protocols import Model

SCORES = "scores.json"
MOST_REASONS = 10  # that one message names

R = TypeVar("R", bound="Result")
S = TypeVar("S")
Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """One evaluated sequence.

    Attributes:
        name: of the sequence.
        digest: of model, settings and files.
        frames: number of frames.
        seconds: spent in the tracker.
        peak_rss_mb: largest resident memory of the process that did it.
    """

    name: str
    digest: str
    frames: int
    seconds: float
    peak_rss_mb: float

    @property
    @abstractmethod
    def line(self) -> str:
        """The scores in a few words, for progress."""

    @property
    @abstractmethod
    def score(self) -> float | None:
        """What sequences are ranked by, 0..1; None where nothing could be scored."""


@dataclass(frozen=True, kw_only=True)
class Summary(ABC):
    """Scores over a whole data set; ``to_dict`` is what ``scores.json`` holds.

    Attributes:
        dataset: such as ``davis2017-val``.
        sequences: number of sequences scored.
        model: its resolved name; None for predictions made elsewhere.
        seconds_per_frame, peak_rss_mb: None for predictions made elsewhere.
        out: folder with ``scores.json`` and the predictions, if any was written.
    """

    dataset: str
    sequences: int
    model: str | None = None
    seconds_per_frame: float | None = None
    peak_rss_mb: float | None = None
    out: Path | None = None

    @abstractmethod
    def measures(self) -> dict[str, float]:
        """The figures to note beside a registered model."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The fields of ``scores.json``."""

    @abstractmethod
    def lines(self) -> list[str]:
        """A table for people."""


class Benchmark(Protocol):
    """A data set with its protocol. Small and picklable: it travels to the workers."""

    @property
    def data(self) -> Path:
        """Its folder."""
        ...

    @property
    def dataset(self) -> str:
        """Name in ``scores.json`` and MLflow."""
        ...

    def names(self) -> tuple[str, ...]:
        """Names of the sequences; raises NotFoundError naming what is missing."""
        ...

    def predictions(self, name: str, out: Path) -> tuple[Path, ...]:
        """The files of predictions that ``evaluate`` writes for a sequence."""
        ...

    def evaluate(
        self, name: str, out: Path, source: ModelSource, model: Model, config: InferenceConfig
    ) -> Result:
        """Propagate one sequence, store predictions and scores, and return them."""
        ...

    def stored(
        self, name: str, out: Path, source: ModelSource, config: InferenceConfig
    ) -> Result | None:
        """The result of an earlier run, if model, settings and files are still the same."""
        ...

    def summarize(self, results: Sequence[Any], source: ModelSource, out: Path) -> Summary:
        """Scores over all sequences, with ``scores.json`` written."""
        ...

    def score(self, predictions: Path, advance: Advance = ...) -> Summary:
        """Scores of predictions made elsewhere; ``advance`` is called for each sequence done."""
        ...


class PicturedBenchmark(Benchmark, Protocol):
    """One that can show a sequence in ``benchmark_report``."""

    def strip(self, result: Any, out: Path, opacity: float) -> Picture:
        """Some frames of a sequence with what was predicted and what is annotated, for a report."""
        ...


def result_digest(fingerprint: str, source: ModelSource, config: InferenceConfig) -> str:
    """SHA-256 of everything that decides the predictions and scores of a sequence."""
    return digest([source.digest, config.digest, fingerprint])


def sequence_note(out: Path, name: str) -> Written:
    """The note of what was written for a sequence."""
    return Written(out / "written" / f"{_flat(name)}.jsonl", root=out)


def summary_note(out: Path) -> Written:
    """The note of what was written for the whole data set."""
    return Written(out / "written.jsonl")


def store(out: Path, result: Result) -> None:
    """Write ``sequences/<name>.json``."""
    contents = json.dumps(dataclasses.asdict(result)) + "\n"
    sequence_note(out, result.name).write(result_file(out, result.name), contents.encode())


def load(kind: type[R], out: Path, name: str, digest: str, predictions: Sequence[Path]) -> R | None:
    """A stored result, if its digest is this one, and it and its predictions are as they were
    written."""
    path, written = result_file(out, name), sequence_note(out, name)
    if not all(written.owns(file) for file in (path, *predictions)):
        return None
    try:
        result = TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError:
        return None
    return result if result.digest == digest else None


def cost(results: Sequence[Result]) -> dict[str, float]:
    """``seconds_per_frame`` of the tracker and ``peak_rss_mb`` over all sequences."""
    predicted = sum(r.frames - 1 for r in results)
    return {
        "seconds_per_frame": sum(r.seconds for r in results) / max(predicted, 1),
        "peak_rss_mb": max(r.peak_rss_mb for r in results),
    }


def write_scores(out: Path, summary: Summary) -> None:
    """Write ``scores.json``."""
    contents = json.dumps(summary.to_dict(), indent=2) + "\n"
    summary_note(out).write(out / SCORES, contents.encode())


def result_file(out: Path, name: str) -> Path:
    """Where the result of a sequence is stored."""
    return out / "sequences" / f"{_flat(name)}.json"


def score_each(
    names: Sequence[str],
    predictions: Path,
    score_one: Callable[[str], S],
    advance: Advance = lambda n: None,
) -> list[S]:
    """Score predictions made elsewhere, sequence by sequence. One that cannot be scored does not
    stop the others.

    Raises:
        NotFoundError: the folder of predictions does not exist.
        CorrFractalError: sequences cannot be scored; names each with its reason. Of one alone, its
        own error.
    """
    if not predictions.is_dir():
        raise NotFoundError(f"the folder of masks {predictions} does not exist")
    report_unknown(predictions, {PurePosixPath(name).parts[0] for name in names})
    scored = []
    failures: dict[str, CorrFractalError] = {}
    for name in names:
        try:
            scored.append(score_one(name))
        except CorrFractalError as exc:
            failures[name] = exc
        advance(1)
    if len(failures) == 1:
        raise next(iter(failures.values()))
    if failures:
        reasons = "; ".join(
            f"{name}: {exc}" for name, exc in islice(failures.items(), MOST_REASONS)
        )
        more = f"; and {len(failures) - MOST_REASONS} more" if len(failures) > MOST_REASONS else ""
        kind = (
            CallError
            if all(isinstance(exc, CallError) for exc in failures.values())
            else CorrFractalError
        )
        raise kind(
            f"{len(failures)} of {len(names)} sequences cannot be scored, so there is no score "
            f"({reasons}{more})"
        )
    return scored


def report_unknown(folder: Path, known: Iterable[str]) -> None:
    """Print what a folder of predictions holds that the data set does not know; names are compared
    without suffix."""
    stems = {PurePosixPath(name).stem for name in known}
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    unknown = [
        name for name in found if not name.startswith(".") and PurePosixPath(name).stem not in stems
    ]
    if unknown:
        say(
            f"{folder}: the data set does not know {len(unknown)} of its entries, such as "
            f"{unknown[0]}: not scored"
        )


def _flat(name: str) -> str:
    return name.replace("/", "_")
