"""What an evaluation yields: the scores of one sequence, the result of its run, and the summary of
a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from corrfractal.files.storage import Location


@dataclass(frozen=True, kw_only=True)
class SequenceScores(ABC):
    """Scores of one sequence, as its data set counts them."""

    @property
    @abstractmethod
    def line(self) -> str:
        """The scores in a few words, for progress."""

    @property
    @abstractmethod
    def ranking(self) -> float | None:
        """The fraction that reports sort sequences by; None if nothing could be scored."""


S = TypeVar("S", bound=SequenceScores)


@dataclass(frozen=True, kw_only=True)
class Result(Generic[S]):
    """One evaluated sequence.

    Attributes:
        name: of the sequence.
        digest: SHA-256 of model, settings and files, see ``result_digest``.
        frames: number of frames.
        seconds: spent in the tracker.
        peak_rss_mb: largest resident memory of the process that evaluated it.
        scores: of the sequence.
    """

    name: str
    digest: str
    frames: int
    seconds: float
    peak_rss_mb: float
    scores: S


@dataclass(frozen=True, kw_only=True)
class Summary(ABC):
    """Scores of a data set; ``to_dict`` gives the contents of ``scores.json``.

    Attributes:
        dataset: such as ``davis2017-val``.
        sequences: number of sequences scored.
        model: its resolved name; None for predictions made elsewhere.
        seconds_per_frame: of the tracker; None for predictions made elsewhere.
        peak_rss_mb: of the processes; None for predictions made elsewhere.
        out: folder of ``scores.json`` and the predictions; None if nothing was written.
    """

    dataset: str
    sequences: int
    model: str | None = None
    seconds_per_frame: float | None = None
    peak_rss_mb: float | None = None
    out: Location | None = None

    @abstractmethod
    def measures(self) -> dict[str, float]:
        """The figures that MLflow stores with a registered model."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """The fields of ``scores.json`` that belong to this data set."""

    @abstractmethod
    def lines(self) -> list[str]:
        """A table for people."""

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``scores.json``."""
        return {
            "dataset": self.dataset,
            "sequences": self.sequences,
            **self.fields(),
            "model": self.model,
            "seconds_per_frame": self.seconds_per_frame,
            "peak_rss_mb": self.peak_rss_mb,
        }


def seconds_per_frame(results: Sequence[Result[Any]]) -> float:
    """Mean time of the tracker over all predicted frames; the first of a sequence is given."""
    predicted = sum(result.frames - 1 for result in results)
    return sum(result.seconds for result in results) / max(predicted, 1)
