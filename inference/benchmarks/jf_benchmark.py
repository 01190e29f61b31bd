"""What DAVIS and YouTube-VOS share: scores of a sequence by J and F of its objects, and their
table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.metrics.jf import ObjectScore, mean_over_objects

from .results import SequenceScores


@dataclass(frozen=True, kw_only=True)
class ObjectScores(SequenceScores):
    """J and F of every object of a sequence; none where no annotation is public."""

    objects: tuple[ObjectScore, ...]

    @property
    def line(self) -> str:
        """J and F of every object."""
        return ", ".join(
            f"object {score.object_id} J {score.J.mean:.3f} F {score.F.mean:.3f}"
            for score in self.objects
        )

    @property
    def ranking(self) -> float | None:
        """Mean J&F of the objects."""
        if not self.objects:
            return None
        return float(np.mean([score.JF for score in self.objects]))


def object_lines(objects: Sequence[ObjectScore], note: str = "") -> list[str]:
    """A table of J and F for people: a row per object, then the mean followed by ``note``."""
    width = max(len(score.name) for score in objects)
    rows = [f"{score.name:{width}}  {score.J.mean:.4f}  {score.F.mean:.4f}" for score in objects]
    mean_j = mean_over_objects(objects, "J")
    mean_f = mean_over_objects(objects, "F")
    return [
        f"{'object':{width}}       J       F",
        *rows,
        f"{'mean':{width}}  {mean_j:.4f}  {mean_f:.4f}   {note}",
    ]
