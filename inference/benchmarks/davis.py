"""DAVIS, semi-supervised: the first mask is given, all later masks are predicted, J and F are those
of the official evaluation.

``scores.json`` and the folder ``masks/<sequence>/00000.png`` follow the conventions of the official
tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import MaskError
from corrfractal.network.tracker import FAST
from inference.config import InferenceConfig
from inference.datasets.davis_files import (
    DavisSequence,
    find_year,
    open_sequence,
    sequence_names,
    set_digest,
)
from inference.metrics.jf import ObjectScore, mean_over_objects, score_sequence
from inference.prompts.mask_images import read_mask
from inference.propagation.track import track
from inference.protocols import Model

from .jf_benchmark import ObjectScores, object_lines
from .mask_benchmark import MaskBenchmark
from .results import Summary

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class DavisSummary(Summary):
    """Scores of all objects of all sequences, fractions 0..1, in the order of the data set."""

    objects: tuple[ObjectScore, ...]

    def mean(self, measure: str, statistic: str = "mean") -> float:
        """Mean over objects of ``"J"`` or ``"F"``; ``statistic`` is mean, recall or decay."""
        return mean_over_objects(self.objects, measure, statistic)

    @property
    def JF(self) -> float:  # noqa: N802
        """J&F, the figure that the benchmark ranks by."""
        return (self.mean("J") + self.mean("F")) / 2

    def measures(self) -> dict[str, float]:
        """J, F and J&F."""
        return {"J": self.mean("J"), "F": self.mean("F"), "JF": self.JF}

    def fields(self) -> dict[str, Any]:
        """Means over objects, and J and F of each."""
        return {
            **self.measures(),
            "J_recall": self.mean("J", "recall"),
            "J_decay": self.mean("J", "decay"),
            "F_recall": self.mean("F", "recall"),
            "F_decay": self.mean("F", "decay"),
            "per_object": {
                score.name: {"J": score.J.mean, "F": score.F.mean} for score in self.objects
            },
        }

    def lines(self) -> list[str]:
        """A row per object, and the means."""
        return object_lines(self.objects, f"J&F {self.JF:.4f}")


@dataclass(frozen=True)
class Davis(MaskBenchmark[DavisSequence, ObjectScores, DavisSummary]):
    """DAVIS of one year. ``year`` is 2017 or 2016; None: the year whose lists exist, 2017 first."""

    year: str | None = None
    split: str = "val"

    SCORES = ObjectScores

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

    def open(self, name: str) -> DavisSequence:
        """The files of a sequence."""
        return open_sequence(self.data, name, self._year)

    def scored(self, clip: DavisSequence) -> Sequence[int]:
        """All frames but the first and the last, which the official evaluation leaves out."""
        return range(1, len(clip.frames) - 1)

    def predict(
        self, clip: DavisSequence, model: Model, config: InferenceConfig
    ) -> Iterator[tuple[U8, float]]:
        """Masks of all frames; that of the first is the annotation."""
        size = clip.frame(0).shape[:2]
        images = (clip.frame(t) for t in range(len(clip.frames)))
        for step in track(images, clip.annotation(0, size), model, config):
            yield step.mask, step.seconds

    def read(self, clip: DavisSequence, paths: Sequence[Path]) -> Iterator[U8]:
        """Masks made elsewhere; like the official evaluation, an id above the objects is
        refused."""
        size = clip.annotation(0).shape
        highest = clip.objects()[-1]
        for path in paths:
            mask = read_mask(path, size)
            # Methods write 1 or 255 for the one object of 2016.
            if clip.year == "2016":
                yield clip.ids(mask)
                continue
            if mask.max() > highest:
                raise MaskError(
                    f"the mask {path} holds the id {mask.max()}, but {clip.name} has objects "
                    f"1..{highest} only"
                )
            yield mask

    def score_clip(
        self, clip: DavisSequence, predictions: Iterable[tuple[int, U8]]
    ) -> ObjectScores:
        """J and F of every object."""
        # Annotations of later frames must have the size of the first, which the masks have.
        size = clip.annotation(0).shape
        pairs = ((clip.annotation(t, size), mask) for t, mask in predictions)
        return ObjectScores(objects=score_sequence(clip.name, clip.objects(), pairs))

    def summary(self, scores: Mapping[str, ObjectScores]) -> DavisSummary:
        """Scores of all objects."""
        objects = chain.from_iterable(sequence.objects for sequence in scores.values())
        return DavisSummary(dataset=self.dataset, sequences=len(scores), objects=tuple(objects))


def score_network(network: Model, data: Path) -> dict[str, float]:
    """J, F and J&F of a network on a small set at three densities, for rank 0 during training;
    nothing is written.

    Raises:
        NotFoundError, MaskError, VideoError: a file of the set is missing or damaged; names it.
    """
    return Davis(data).evaluate_in_memory(network, InferenceConfig(tracker=FAST)).measures()
