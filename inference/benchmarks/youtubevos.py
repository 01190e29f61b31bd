"""YouTube-VOS, semi-supervised: objects join at their first annotation; J and F of seen and unseen
categories.

The masks of all frames go to ``Annotations/<video>/<frame>.png``, the layout that the server of the
benchmark accepts. The overall score is the mean of four: J and F, each over the objects of seen and
of unseen categories.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import MaskError, NotFoundError
from corrfractal.common.report_page import Picture
from inference.config import InferenceConfig
from inference.datasets.youtubevos_files import YoutubeVosVideo, open_video, video_names
from inference.metrics.jf import ObjectScore, frame_scores, mean_over_objects
from inference.prompts.mask_images import read_mask
from inference.protocols import Model
from inference.reports.pictures import mask_strip, sample_evenly, skip_first

from .base import Advance, PicturedBenchmark
from .jf_benchmark import ObjectScores, object_lines
from .mask_benchmark import MaskBenchmark
from .results import Result, Summary

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class YoutubeVosSummary(Summary):
    """Scores of all objects with a public annotation after the first, fractions 0..1. Without any,
    there are masks and no scores.

    Attributes:
        objects: scores of each object.
        seen: whether the training set has the category of each object; None where the category is
            not public.
    """

    objects: tuple[ObjectScore, ...]
    seen: tuple[bool | None, ...]

    def four(self) -> dict[str, float | None]:
        """J and F of seen and unseen categories; None for a group without objects."""
        pairs = list(zip(self.objects, self.seen, strict=True))
        seen = [score for score, group in pairs if group is True]
        unseen = [score for score, group in pairs if group is False]
        return {
            "J_seen": _mean(seen, "J"),
            "J_unseen": _mean(unseen, "J"),
            "F_seen": _mean(seen, "F"),
            "F_unseen": _mean(unseen, "F"),
        }

    @property
    def overall(self) -> float | None:
        """Mean of the four, the figure that the benchmark ranks by; None if a group is empty."""
        values = self.four().values()
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    def measures(self) -> dict[str, float]:
        """Those of the five figures that exist."""
        figures = {"overall": self.overall, **self.four()}
        return {name: value for name, value in figures.items() if value is not None}

    def fields(self) -> dict[str, Any]:
        """The five figures, means over all objects, and J and F of each."""
        return {
            "overall": self.overall,
            **self.four(),
            "J": _mean(self.objects, "J"),
            "F": _mean(self.objects, "F"),
            "per_object": {
                score.name: {"J": score.J.mean, "F": score.F.mean, "seen": seen}
                for score, seen in zip(self.objects, self.seen, strict=True)
            },
        }

    def lines(self) -> list[str]:
        """A row per object, and the five figures."""
        if not self.objects:
            return ["no annotation after the first is public: masks to submit, no scores"]
        figures = []
        for name, value in {"overall": self.overall, **self.four()}.items():
            figures.append(f"{name} -" if value is None else f"{name} {value:.4f}")
        return [*object_lines(self.objects), ", ".join(figures)]


@dataclass(frozen=True)
class YoutubeVos(
    MaskBenchmark[YoutubeVosVideo, ObjectScores, YoutubeVosSummary],
    PicturedBenchmark[YoutubeVosVideo, U8, ObjectScores, YoutubeVosSummary],
):
    """YouTube-VOS of one split, which is the name of its folder."""

    split: str = "valid"

    FOLDER = "Annotations"
    SCORES = ObjectScores

    @property
    def dataset(self) -> str:
        """Such as ``youtubevos-valid``."""
        return f"youtubevos-{self.split}"

    def names(self) -> tuple[str, ...]:
        """Names of the videos."""
        return video_names(self.data, self.split)

    def open(self, name: str) -> YoutubeVosVideo:
        """The files of a video."""
        return open_video(self.data, name, self.split)

    def scored(self, clip: YoutubeVosVideo) -> Sequence[int]:
        """The frames in which some object has a truth."""
        # Frames in which objects are only given are not scored.
        annotated = {stem for object_id in clip.objects for stem in clip.truth(object_id)}
        return [t for t, frame in enumerate(clip.frames) if frame.stem in annotated]

    def predict(
        self, clip: YoutubeVosVideo, model: Model, config: InferenceConfig
    ) -> Iterator[tuple[U8, float]]:
        """Masks of all frames. Objects that are annotated for the first time overwrite the
        prediction, and the frame with them becomes a memory frame."""
        # A video may start without any object.
        first = clip.frame(0)
        size = first.shape[:2]
        given = clip.given(0, size)
        mask = np.zeros(size, dtype=np.uint8) if given is None else given
        tracker = model.tracker(first, mask, config.tracker)
        yield mask, 0.0

        for t in range(1, len(clip.frames)):
            frame = clip.frame(t)
            given = clip.given(t, size)
            started = time.perf_counter()
            mask = tracker.step(frame, given)
            yield mask, time.perf_counter() - started

    def read(self, clip: YoutubeVosVideo, paths: Sequence[Path]) -> Iterator[U8]:
        """Masks made elsewhere; an id that the video does not have is refused."""
        size = clip.frame(0).shape[:2]
        for path in paths:
            mask = read_mask(path, size)
            unknown = set(np.unique(mask).tolist()) - {0, *clip.objects}
            if unknown:
                known = ", ".join(map(str, sorted(clip.objects)))
                raise MaskError(
                    f"the mask {path} holds the id {max(unknown)}, but {clip.name} has objects "
                    f"{known}"
                )
            yield mask

    def score_clip(
        self, clip: YoutubeVosVideo, predictions: Iterable[tuple[int, U8]]
    ) -> ObjectScores:
        """J and F of the objects that have a truth, each in its annotated frames after the
        first."""
        size = clip.frame(0).shape[:2]
        truths = {object_id: set(clip.truth(object_id)) for object_id in clip.objects}
        per_frame: dict[int, list[tuple[float, float]]] = {
            object_id: [] for object_id, stems in truths.items() if stems
        }
        for t, mask in predictions:
            stem = clip.frames[t].stem
            truth = clip.annotation(stem, size)
            for object_id, scores in per_frame.items():
                if stem in truths[object_id]:
                    scores.append(frame_scores(truth == object_id, mask == object_id))

        return ObjectScores(
            objects=tuple(
                ObjectScore(
                    sequence=clip.name,
                    object_id=object_id,
                    j_frames=tuple(j for j, _ in scores),
                    f_frames=tuple(f for _, f in scores),
                )
                for object_id, scores in per_frame.items()
            )
        )

    def summary(self, scores: Mapping[str, ObjectScores]) -> YoutubeVosSummary:
        """Scores of all objects, each with the group of its category."""
        objects: list[ObjectScore] = []
        seen: list[bool | None] = []
        for name, sequence in scores.items():
            about = self.open(name).objects
            objects += sequence.objects
            seen += [about[score.object_id].seen for score in sequence.objects]
        return YoutubeVosSummary(
            dataset=self.dataset,
            sequences=len(scores),
            objects=tuple(objects),
            seen=tuple(seen),
        )

    def score(self, predictions: Path, advance: Advance = lambda count: None) -> YoutubeVosSummary:
        """As for every benchmark.

        Raises:
            NotFoundError: also if no annotation after the first is public.
        """
        summary = super().score(predictions, advance)
        if not summary.objects:
            raise NotFoundError(
                f"{self.data / self.split / 'Annotations'} holds only the first annotation of "
                "every object: there is no truth to score against"
            )
        return summary

    def strip(self, result: Result[ObjectScores], out: Path, opacity: float) -> Picture:
        """Some frames with their objects: annotated frames, if there are any after the first."""
        video = self.open(result.name)
        files = self.predictions(result.name, out)
        annotated = [
            t for t, frame in enumerate(video.frames) if t and frame.stem in video.annotations
        ]
        indices = sample_evenly(annotated or skip_first(len(video.frames)))
        stems = [video.frames[t].stem for t in indices]

        shown = []
        for t, stem in zip(indices, stems, strict=True):
            frame = video.frame(t)
            truth = video.annotation(stem, frame.shape[:2]) if annotated else None
            shown.append((frame, read_mask(files[t]), truth))
        return mask_strip(shown, stems, opacity)


def _mean(objects: Sequence[ObjectScore], measure: str) -> float | None:
    return mean_over_objects(objects, measure) if objects else None
