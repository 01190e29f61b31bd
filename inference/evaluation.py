"""DAVIS-2017 evaluation without Ray: one sequence propagated and scored, masks made elsewhere scored, and the sums.

``scores.json`` and the folder ``masks/<sequence>/00000.png`` follow the official tools' conventions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.config import digest
from corrfractal.errors import MaskError, NotFoundError
from corrfractal.runtime import write_text
from corrfractal.tracker import FAST

from .config import InferenceConfig
from .datasets.davis import Sequence, open_sequence, sequence_names
from .load import Model, ModelSource
from .masks import read_mask, write_mask
from .metrics.jf import ObjectScore, objects_of, score_sequence
from .propagate import peak_rss_mb, track

U8 = npt.NDArray[np.uint8]

DATASET = "davis2017-val"


@dataclass(frozen=True, kw_only=True)
class SequenceResult:
    """One scored sequence, stored as ``sequences/<name>.json``.

    Attributes:
        name: of the sequence.
        digest: of model, settings and files: a stored result with the same digest is taken as it is.
        frames: number of frames.
        seconds: spent in the tracker.
        peak_rss_mb: largest resident memory of the process that did it.
        objects: scores of every object.
    """

    name: str
    digest: str
    frames: int
    seconds: float
    peak_rss_mb: float
    objects: tuple[ObjectScore, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores over all objects of all sequences, fractions 0..1; ``to_dict`` is what ``scores.json`` holds.

    Attributes:
        objects: scores of every object, in the order of the data set.
        sequences: number of sequences scored.
        model: its resolved name; None for masks made elsewhere.
        seconds_per_frame, peak_rss_mb: None for masks made elsewhere.
        out: folder with ``scores.json``, ``report.html`` and ``masks``, if any was written.
    """

    dataset: str
    objects: tuple[ObjectScore, ...]
    sequences: int
    model: str | None = None
    seconds_per_frame: float | None = None
    peak_rss_mb: float | None = None
    out: Path | None = None

    def mean(self, measure: str, statistic: str = "mean") -> float:
        """Mean over objects: ``measure`` is ``"J"`` or ``"F"``; ``statistic`` mean, recall or decay."""
        return float(np.mean([getattr(getattr(o, measure), statistic) for o in self.objects]))

    @property
    def JF(self) -> float:  # noqa: N802
        """J&F, the number that the benchmark ranks by."""
        return (self.mean("J") + self.mean("F")) / 2

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``scores.json``."""
        return {
            "dataset": self.dataset,
            "sequences": self.sequences,
            "J": self.mean("J"),
            "F": self.mean("F"),
            "JF": self.JF,
            **{f"{m}_{s}": self.mean(m, s) for m in "JF" for s in ("recall", "decay")},
            "per_object": {o.name: {"J": o.J.mean, "F": o.F.mean} for o in self.objects},
            "model": self.model,
            "seconds_per_frame": self.seconds_per_frame,
            "peak_rss_mb": self.peak_rss_mb,
        }


def evaluate_sequence(
    data: Path, name: str, out: Path, source: ModelSource, model: Model, config: InferenceConfig
) -> SequenceResult:
    """Propagate one sequence, store its masks and scores, and return them.

    Raises:
        NotFoundError, MaskError, VideoError: a file of the sequence is missing or damaged; names it.
    """
    sequence = open_sequence(data, name)
    size = sequence.frame(0).shape[:2]
    first = sequence.annotation(0, size)
    images = (sequence.frame(t) for t in range(len(sequence.frames)))
    folder = out / "masks" / name
    folder.mkdir(parents=True, exist_ok=True)
    seconds: list[float] = []

    def scored() -> Iterator[tuple[U8, U8]]:
        for t, step in enumerate(track(images, first, model, config)):
            write_mask(folder / f"{sequence.frames[t].stem}.png", step.mask)
            seconds.append(step.seconds)
            if 0 < t < len(sequence.frames) - 1:
                yield sequence.annotation(t, size), step.mask

    objects = score_sequence(name, objects_of(first), scored())
    result = SequenceResult(
        name=name,
        digest=result_digest(sequence, source, config),
        frames=len(sequence.frames),
        seconds=sum(seconds),
        peak_rss_mb=peak_rss_mb(),
        objects=objects,
    )
    _save(out, result)
    return result


def stored_result(
    data: Path, name: str, out: Path, source: ModelSource, config: InferenceConfig
) -> SequenceResult | None:
    """The result of an earlier run, if model, settings and files are still the same and all masks are there.

    Raises:
        NotFoundError: a file of the sequence is missing; names it.
    """
    sequence = open_sequence(data, name)
    try:
        values = json.loads(_result_file(out, name).read_text(encoding="utf-8"))
        objects = tuple(
            ObjectScore(**{**o, "j_frames": tuple(o["j_frames"]), "f_frames": tuple(o["f_frames"])})
            for o in values.pop("objects")
        )
        result = SequenceResult(**values, objects=objects)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    masks = out / "masks" / name
    complete = all((masks / f"{frame.stem}.png").is_file() for frame in sequence.frames)
    return result if complete and result.digest == result_digest(sequence, source, config) else None


def summarize(results: Iterable[SequenceResult], source: ModelSource, out: Path) -> Evaluation:
    """Scores over all sequences, with ``scores.json`` written."""
    done = tuple(results)
    evaluation = Evaluation(
        dataset=DATASET,
        objects=tuple(score for result in done for score in result.objects),
        sequences=len(done),
        model=source.name,
        seconds_per_frame=sum(r.seconds for r in done) / sum(r.frames - 1 for r in done),
        peak_rss_mb=max(r.peak_rss_mb for r in done),
        out=out,
    )
    write_text(out / "scores.json", json.dumps(evaluation.to_dict(), indent=2) + "\n")
    return evaluation


def score_masks(data: Path, masks: Path, advance: Callable[[int], None] = lambda n: None) -> Evaluation:
    """Score masks made elsewhere, laid out as ``masks/<sequence>/00000.png``; reads the scored frames only.

    Raises:
        NotFoundError: the data set, or a mask file, is missing; names it.
        MaskError: a mask is unreadable, of another size, or holds an id that the sequence does not have.
    """
    if not masks.is_dir():
        raise NotFoundError(f"the folder of masks {masks} does not exist")
    objects: list[ObjectScore] = []
    names = sequence_names(data)
    for name in names:
        sequence = open_sequence(data, name)
        first = sequence.annotation(0)
        objects += score_sequence(name, objects_of(first), _pairs(sequence, first, masks / name))
        advance(1)
    return Evaluation(dataset=DATASET, objects=tuple(objects), sequences=len(names))


def score_network(network: Model, data: Path) -> dict[str, float]:
    """J, F and J&F of a network on all sequences of a small set, three densities; nothing is written.

    For training, which calls it by its name (docs/decisions/0024).

    Raises:
        NotFoundError, MaskError, VideoError: a file of the set is missing or damaged; names it.
    """
    config = InferenceConfig(tracker=FAST)
    objects: list[ObjectScore] = []
    for name in sequence_names(data):
        sequence = open_sequence(data, name)
        size = sequence.frame(0).shape[:2]
        first = sequence.annotation(0, size)
        images = (sequence.frame(t) for t in range(len(sequence.frames)))
        last = len(sequence.frames) - 1  # the official evaluation leaves out both ends
        masks = enumerate(step.mask for step in track(images, first, network, config))
        pairs = ((sequence.annotation(t, size), mask) for t, mask in masks if 0 < t < last)
        objects += score_sequence(name, objects_of(first), pairs)
    evaluation = Evaluation(dataset=data.name, objects=tuple(objects), sequences=len(sequence_names(data)))
    return {"J": evaluation.mean("J"), "F": evaluation.mean("F"), "JF": evaluation.JF}


def result_digest(sequence: Sequence, source: ModelSource, config: InferenceConfig) -> str:
    """SHA-256 of everything that decides the masks and scores of a sequence."""
    return digest([source.digest, config.digest, sequence.fingerprint()])


def _pairs(sequence: Sequence, first: U8, masks: Path) -> Iterator[tuple[U8, U8]]:
    highest = max(objects_of(first))
    for t in range(1, len(sequence.frames) - 1):
        path = masks / sequence.annotations[t].name
        mask = read_mask(path, first.shape)
        if mask.max() > highest:
            raise MaskError(
                f"the mask {path} holds the id {mask.max()}, but {sequence.name} has objects 1..{highest} only"
            )
        yield sequence.annotation(t, first.shape), mask


def _save(out: Path, result: SequenceResult) -> None:
    path = _result_file(out, result.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(dataclasses.asdict(result)) + "\n")


def _result_file(out: Path, name: str) -> Path:
    return out / "sequences" / f"{name}.json"
