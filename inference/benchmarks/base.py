"""The loop that runs every benchmark.

A data set lists its sequences, predicts one with a model, scores the predictions, and sums scores
up. ``Benchmark`` combines these in three ways:

- ``evaluate`` and ``summarize`` store predictions and scores; ``stored`` reads them, so that an
  evaluation resumes. ``inference.evaluate`` distributes the sequences over Ray.
- ``score`` scores predictions made elsewhere.
- ``evaluate_in_memory`` scores a network in this process and writes nothing.

A *prediction* is the contents of one file: the mask of a frame, or the joints of a video.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from corrfractal.common.config import digest
from corrfractal.common.errors import CallError, CorrFractalError, NotFoundError
from corrfractal.common.report_page import Picture
from corrfractal.runtime.process import peak_rss_mb
from inference.config import InferenceConfig
from inference.load import ModelSource
from inference.protocols import Model

from .result_files import load_result, sequence_note, store_result, write_scores
from .results import Result, S, SequenceScores, Summary, seconds_per_frame

MAX_REASONS = 10  # that one message lists

Advance = Callable[[int], None]

log = logging.getLogger(__name__)


class AnnotatedSequence(Protocol):
    """The files of one sequence."""

    @property
    def name(self) -> str: ...

    @property
    def frames(self) -> tuple[Path, ...]: ...

    def fingerprint(self) -> str:
        """Changes when a file is replaced."""
        ...


C = TypeVar("C", bound=AnnotatedSequence)  # clip: the files of one sequence
P = TypeVar("P")  # prediction
T = TypeVar("T", bound=Summary)  # total over all sequences


@dataclass(frozen=True)
class Benchmark(ABC, Generic[C, P, S, T]):
    """A data set with its protocol. Small and picklable: it is sent to the workers.

    Attributes:
        data: folder of the data set.
        FOLDER: of the predictions, in the output folder.
        SCORES: class of the scores of a sequence.
    """

    data: Path

    FOLDER: ClassVar[str]
    SCORES: ClassVar[type[SequenceScores]]

    # --- what a data set defines

    @property
    @abstractmethod
    def dataset(self) -> str:
        """Name in ``scores.json`` and MLflow."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the sequences, in the order of the data set.

        Raises:
            NotFoundError: ``data`` is not the data set; names what is missing.
        """

    @abstractmethod
    def open(self, name: str) -> C:
        """Look up the files of a sequence.

        Raises:
            NotFoundError, IntegrityError: a file is missing or damaged; names it.
        """

    @abstractmethod
    def files(self, clip: C) -> list[Path]:
        """Files of the predictions of a sequence, relative to their folder."""

    def scored(self, clip: C) -> Sequence[int]:
        """Indices in ``files`` of the predictions that are scored; all, unless overridden."""
        return range(len(self.files(clip)))

    @abstractmethod
    def predict(self, clip: C, model: Model, config: InferenceConfig) -> Iterator[tuple[P, float]]:
        """Yield the prediction of each of ``files`` and the seconds that the tracker took.

        Raises:
            MaskError, VideoError: a frame or the first annotation is damaged; names it.
        """

    @abstractmethod
    def encode(self, prediction: P) -> bytes:
        """The file of a prediction."""

    @abstractmethod
    def read(self, clip: C, paths: Sequence[Path]) -> Iterator[P]:
        """Read predictions made elsewhere.

        Raises:
            NotFoundError, MaskError, IntegrityError: a file is missing, damaged or does not fit
            the sequence; names it.
        """

    @abstractmethod
    def score_clip(self, clip: C, predictions: Iterable[tuple[int, P]]) -> S:
        """Score a sequence.

        Args:
            clip: its files.
            predictions: index and prediction of each of ``scored``, in order. All must be consumed:
                they are made on demand.
        """

    @abstractmethod
    def summary(self, scores: Mapping[str, S]) -> T:
        """Scores of the data set, from those of each sequence by name."""

    # --- what follows from it

    def evaluate(
        self, name: str, out: Path, source: ModelSource, model: Model, config: InferenceConfig
    ) -> Result[S]:
        """Predict and score one sequence, and store both.

        Args:
            name: of the sequence.
            out: folder of the evaluation.
            source: identity of the model.
            model: the model itself.
            config: of the propagation.

        Raises:
            NotFoundError, IntegrityError, MaskError, VideoError: a file of the sequence is missing
            or damaged; names it.
        """
        clip = self.open(name)
        note = sequence_note(out, name)

        def save(file: Path, prediction: P) -> None:
            note.write(out / self.FOLDER / file, self.encode(prediction))

        scores, seconds = self._predict_and_score(clip, model, config, save)
        # Stored last: a sequence with a result has all its predictions.
        result = Result(
            name=name,
            digest=result_digest(clip.fingerprint(), source, config),
            frames=len(clip.frames),
            seconds=seconds,
            peak_rss_mb=peak_rss_mb(),
            scores=scores,
        )
        store_result(out, result)
        return result

    def stored(
        self, name: str, out: Path, source: ModelSource, config: InferenceConfig
    ) -> Result[S] | None:
        """The result of an earlier run; None unless model, settings, files and predictions are
        unchanged.

        Raises:
            NotFoundError, IntegrityError: as ``open``.
        """
        wanted = result_digest(self.open(name).fingerprint(), source, config)
        # A class variable cannot have the type variable S; SCORES is the class of S.
        kind: type[Any] = self.SCORES
        return load_result(out, name, wanted, kind, self.predictions(name, out))

    def summarize(self, results: Sequence[Result[S]], source: ModelSource, out: Path) -> T:
        """Sum up all sequences and write ``scores.json``."""
        summary = replace(
            self.summary({result.name: result.scores for result in results}),
            model=source.name,
            seconds_per_frame=seconds_per_frame(results),
            peak_rss_mb=max(result.peak_rss_mb for result in results),
            out=out,
        )
        write_scores(out, summary)
        return summary

    def predictions(self, name: str, out: Path) -> list[Path]:
        """The files of predictions that ``evaluate`` writes for a sequence."""
        return [out / self.FOLDER / file for file in self.files(self.open(name))]

    def evaluate_in_memory(self, model: Model, config: InferenceConfig) -> T:
        """Predict and score all sequences in this process; nothing is written.

        Raises:
            NotFoundError, IntegrityError, MaskError, VideoError: a file of the data set is missing
            or damaged; names it.
        """

        def discard(file: Path, prediction: P) -> None:
            pass

        scores = {}
        for name in self.names():
            scores[name], _ = self._predict_and_score(self.open(name), model, config, discard)
        return self.summary(scores)

    def score(self, predictions: Path, advance: Advance = lambda count: None) -> T:
        """Score predictions made elsewhere. A sequence that cannot be scored does not stop the
        others.

        Args:
            predictions: folder with the files of ``files``; only scored ones are read.
            advance: called for each sequence done.

        Raises:
            NotFoundError: the data set or the folder does not exist.
            CorrFractalError: sequences cannot be scored; names each with its reason. For a single
                one, its own error.
        """
        names = self.names()
        # A wrong folder is one error, not one per sequence.
        if not predictions.is_dir():
            raise NotFoundError(f"the folder of predictions {predictions} does not exist")
        _report_unknown(predictions, (PurePosixPath(name).parts[0] for name in names))

        scores: dict[str, S] = {}
        failures: dict[str, CorrFractalError] = {}
        for name in names:
            try:
                scores[name] = self._score_stored(self.open(name), predictions)
            except CorrFractalError as exc:
                failures[name] = exc
            advance(1)

        if failures:
            raise _combine(failures, len(names))
        return self.summary(scores)

    def _predict_and_score(
        self, clip: C, model: Model, config: InferenceConfig, save: Callable[[Path, P], None]
    ) -> tuple[S, float]:
        """Scores of a sequence, and the seconds of the tracker. Each prediction is saved and scored
        as soon as it is made, so that only one is in memory."""
        files = self.files(clip)
        scored = set(self.scored(clip))
        seconds = 0.0

        def saved() -> Iterator[tuple[int, P]]:
            nonlocal seconds
            for index, (prediction, spent) in enumerate(self.predict(clip, model, config)):
                save(files[index], prediction)
                seconds += spent
                if index in scored:
                    yield index, prediction

        scores = self.score_clip(clip, saved())
        return scores, seconds

    def _score_stored(self, clip: C, folder: Path) -> S:
        files = self.files(clip)
        _report_unknown(folder / clip.name, (file.name for file in files))
        scored = self.scored(clip)
        predictions = self.read(clip, [folder / files[index] for index in scored])
        return self.score_clip(clip, zip(scored, predictions, strict=True))


class PicturedBenchmark(Benchmark[C, P, S, T]):
    """A benchmark whose sequences ``benchmark_report`` can show."""

    @abstractmethod
    def strip(self, result: Result[S], out: Path, opacity: float) -> Picture:
        """Some frames with their predictions and annotations."""


AnyBenchmark = Benchmark[Any, Any, Any, Any]
AnyPicturedBenchmark = PicturedBenchmark[Any, Any, Any, Any]


def result_digest(fingerprint: str, source: ModelSource, config: InferenceConfig) -> str:
    """SHA-256 of everything that decides the predictions and scores of a sequence."""
    return digest([source.digest, config.digest, fingerprint])


def _report_unknown(folder: Path, known: Iterable[str]) -> None:
    """Log entries of a folder of predictions that belong to no sequence or frame; names are
    compared without suffix."""
    if not folder.is_dir():
        return
    # Without suffix, because predictions may be compared with names of JPEG frames.
    stems = {PurePosixPath(name).stem for name in known}
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    unknown = [name for name in names if PurePosixPath(name).stem not in stems]
    if unknown:
        log.info(
            f"{folder}: {len(unknown)} entries are not in the data set and are not scored, such as "
            f"{unknown[0]}"
        )


def _combine(failures: Mapping[str, CorrFractalError], total: int) -> CorrFractalError:
    """One error for all sequences that cannot be scored."""
    errors = list(failures.values())
    if len(errors) == 1:
        return errors[0]

    reasons = [f"{name}: {exc}" for name, exc in islice(failures.items(), MAX_REASONS)]
    if len(errors) > MAX_REASONS:
        reasons.append(f"and {len(errors) - MAX_REASONS} more")
    # A wrong call (exit code 2) only if every reason is one.
    wrong_call = all(isinstance(exc, CallError) for exc in errors)
    kind = CallError if wrong_call else CorrFractalError
    return kind(
        f"{len(errors)} of {total} sequences cannot be scored, so there is no score "
        f"({'; '.join(reasons)})"
    )
