"""DAVIS evaluation without Ray: one sequence propagated and scored, masks made elsewhere scored,
and the sums.

``scores.json`` and the folder ``masks/<sequence>/00000.png`` follow the official tools'
conventions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import MaskError
from corrfractal.common.process import peak_rss_mb
from corrfractal.network.tracker import FAST
from inference.config import InferenceConfig
from inference.datasets.davis_files import (
    Sequence,
    find_year,
    open_sequence,
    sequence_names,
    set_digest,
)
from inference.load import ModelSource
from inference.metrics.jf import ObjectScore, score_sequence
from inference.prompts.mask_images import encode_mask, read_mask
from inference.propagation.track import track
from inference.protocols import Model

from .base import (
    Advance,
    Result,
    Summary,
    cost,
    load,
    report_unknown,
    result_digest,
    score_each,
    sequence_note,
    store,
    write_scores,
)

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class SequenceResult(Result):
    """One sequence scored by J and F; ``objects`` holds the scores of every object."""

    objects: tuple[ObjectScore, ...]

    @property
    def line(self) -> str:
        """J and F of every object."""
        return ", ".join(
            f"object {o.object_id} J {o.J.mean:.3f} F {o.F.mean:.3f}" for o in self.objects
        )

    @property
    def score(self) -> float | None:
        """Mean J&F of its objects."""
        return (
            float(np.mean([(o.J.mean + o.F.mean) / 2 for o in self.objects]))
            if self.objects
            else None
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation(Summary):
    """Scores over all objects of all sequences, fractions 0..1, in the order of the data set."""

    objects: tuple[ObjectScore, ...]

    def mean(self, measure: str, statistic: str = "mean") -> float:
        """Mean over objects: ``measure`` is ``"J"`` or ``"F"``; ``statistic`` mean, recall or
        decay."""
        return float(np.mean([getattr(getattr(o, measure), statistic) for o in self.objects]))

    @property
    def JF(self) -> float:  # noqa: N802
        """J&F, the number that the benchmark ranks by."""
        return (self.mean("J") + self.mean("F")) / 2

    def measures(self) -> dict[str, float]:
        """J, F and J&F."""
        return {"J": self.mean("J"), "F": self.mean("F"), "JF": self.JF}

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``scores.json``."""
        return {
            "dataset": self.dataset,
            "sequences": self.sequences,
            **self.measures(),
            **{f"{m}_{s}": self.mean(m, s) for m in "JF" for s in ("recall", "decay")},
            "per_object": {o.name: {"J": o.J.mean, "F": o.F.mean} for o in self.objects},
            "model": self.model,
            "seconds_per_frame": self.seconds_per_frame,
            "peak_rss_mb": self.peak_rss_mb,
        }

    def lines(self) -> list[str]:
        """A row per object, and the means."""
        return object_lines(self.objects, f"J&F {self.JF:.4f}")


@dataclass(frozen=True)
class Davis:
    """DAVIS, semi-supervised: the first mask is given. ``year`` is 2017 or 2016; None looks which
    one is there."""

    data: Path
    year: str | None = None
    split: str = "val"

    @cached_property
    def _year(self) -> str:
        return self.year or find_year(self.data, self.split)

    @property
    def dataset(self) -> str:
        """Such as ``davis2017-val``."""
        return f"davis{self._year}-{self.split}"

    def names(self) -> tuple[str, ...]:
        """Names of the sequences."""
        return sequence_names(self.data, self.split, self._year)

    def digest(self) -> str:
        """SHA-256 over all frames and annotations."""
        return set_digest(self.data, self.split, self._year)

    def open(self, name: str) -> Sequence:
        """The files of a sequence."""
        return open_sequence(self.data, name, self._year)

    def predictions(self, name: str, out: Path) -> tuple[Path, ...]:
        """The masks that ``evaluate`` writes for a sequence."""
        return tuple(out / "masks" / name / f"{frame.stem}.png" for frame in self.open(name).frames)

    def evaluate(
        self, name: str, out: Path, source: ModelSource, model: Model, config: InferenceConfig
    ) -> SequenceResult:
        """Propagate one sequence, store its masks and scores, and return them.

        Raises:
            NotFoundError, MaskError, VideoError: a file of the sequence is missing or damaged;
            names it.
        """
        sequence = self.open(name)
        size, objects = sequence.frame(0).shape[:2], sequence.objects()
        first = sequence.annotation(0, size)
        images = (sequence.frame(t) for t in range(len(sequence.frames)))
        paths, written = self.predictions(name, out), sequence_note(out, name)
        seconds: list[float] = []

        def scored() -> Iterator[tuple[U8, U8]]:
            for t, step in enumerate(track(images, first, model, config)):
                written.write(paths[t], encode_mask(step.mask))
                seconds.append(step.seconds)
                if 0 < t < len(sequence.frames) - 1:
                    yield sequence.annotation(t, size), step.mask

        scores = score_sequence(name, objects, scored())
        result = SequenceResult(
            name=name,
            digest=result_digest(sequence.fingerprint(), source, config),
            frames=len(sequence.frames),
            seconds=sum(seconds),
            peak_rss_mb=peak_rss_mb(),
            objects=scores,
        )
        store(out, result)
        return result

    def stored(
        self, name: str, out: Path, source: ModelSource, config: InferenceConfig
    ) -> SequenceResult | None:
        """The result of an earlier run, if model, settings, files and all masks are still the same.

        Raises:
            NotFoundError: a file of the sequence is missing; names it.
        """
        digest = result_digest(self.open(name).fingerprint(), source, config)
        return load(SequenceResult, out, name, digest, self.predictions(name, out))

    def summarize(
        self, results: Many[SequenceResult], source: ModelSource, out: Path
    ) -> Evaluation:
        """Scores over all sequences, with ``scores.json`` written."""
        objects = tuple(score for result in results for score in result.objects)
        evaluation = Evaluation(
            dataset=self.dataset,
            objects=objects,
            sequences=len(results),
            model=source.name,
            out=out,
            **cost(results),
        )
        write_scores(out, evaluation)
        return evaluation

    def score(self, masks: Path, advance: Advance = lambda n: None) -> Evaluation:
        """Score masks made elsewhere, laid out as ``masks/<sequence>/00000.png``; reads the scored
        frames only.

        Raises:
            NotFoundError: the data set, or a mask file, is missing; names it.
            MaskError: a mask is unreadable, of another size, or holds an id that the sequence does
            not have.
        """

        def score_one(name: str) -> Many[ObjectScore]:
            sequence = self.open(name)
            report_unknown(masks / name, (path.name for path in sequence.annotations))
            ids = sequence.objects()
            return score_sequence(name, ids, _pairs(sequence, ids, masks / name))

        names = self.names()
        scored = score_each(names, masks, score_one, advance)
        return Evaluation(dataset=self.dataset, objects=tuple(chain(*scored)), sequences=len(names))


def score_masks(data: Path, masks: Path, advance: Advance = lambda n: None) -> Evaluation:
    """``Davis(data).score(masks)``: DAVIS-2017, or 2016 where ``data`` holds that."""
    return Davis(data).score(masks, advance)


def object_lines(objects: Iterable[ObjectScore], last: str) -> list[str]:
    """A table of J and F for people, the mean with ``last`` behind it at the end."""
    objects = list(objects)
    width = max(len(o.name) for o in objects)
    rows = [f"{o.name:{width}}  {o.J.mean:.4f}  {o.F.mean:.4f}" for o in objects]
    means = [np.mean([getattr(o, m).mean for o in objects]) for m in "JF"]
    return [
        f"{'object':{width}}       J       F",
        *rows,
        f"{'mean':{width}}  {means[0]:.4f}  {means[1]:.4f}   {last}",
    ]


def score_network(network: Model, data: Path) -> dict[str, float]:
    """J, F and J&F of a network on all sequences of a small set, three densities; nothing is
    written.

    For training, which calls it by its name (docs/decisions/0024).

    Raises:
        NotFoundError, MaskError, VideoError: a file of the set is missing or damaged; names it.
    """
    evaluation = evaluate_network(network, data, InferenceConfig(tracker=FAST))
    return {"J": evaluation.mean("J"), "F": evaluation.mean("F"), "JF": evaluation.JF}


def evaluate_network(network: Model, data: Path, config: InferenceConfig) -> Evaluation:
    """Scores of a network on all sequences of a small set in this process; nothing is written.

    Raises:
        NotFoundError, MaskError, VideoError: a file of the set is missing or damaged; names it.
    """
    benchmark = Davis(data)
    objects: list[ObjectScore] = []
    for name in benchmark.names():
        sequence = benchmark.open(name)
        size = sequence.frame(0).shape[:2]
        images = (sequence.frame(t) for t in range(len(sequence.frames)))
        last = len(sequence.frames) - 1  # the official evaluation leaves out both ends
        masks = enumerate(
            step.mask for step in track(images, sequence.annotation(0, size), network, config)
        )
        pairs = ((sequence.annotation(t, size), mask) for t, mask in masks if 0 < t < last)
        objects += score_sequence(name, sequence.objects(), pairs)
    return Evaluation(dataset=data.name, objects=tuple(objects), sequences=len(benchmark.names()))


def _pairs(sequence: Sequence, objects: tuple[int, ...], masks: Path) -> Iterator[tuple[U8, U8]]:
    """Truth and prediction of the scored frames; like the official code, an id beyond the objects
    is refused."""
    size = sequence.annotation(0).shape
    for t in range(1, len(sequence.frames) - 1):
        path = masks / sequence.annotations[t].name
        mask = read_mask(path, size)
        if sequence.year == "2016":
            mask = sequence.ids(mask)
        elif mask.max() > objects[-1]:
            raise MaskError(
                f"the mask {path} holds the id {mask.max()}, but {sequence.name} has objects "
                f"1..{objects[-1]} only"
            )
        yield sequence.annotation(t, size), mask
