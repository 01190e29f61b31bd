"""YouTube-VOS evaluation: objects join where they are annotated first; J and F of seen and unseen
categories.

The masks of all frames lie in ``Annotations/<video>/<frame>.png``, the tree that the benchmark's
server takes. The overall score is the mean of four: J and F, each over the objects of seen and of
unseen categories.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import MaskError, NotFoundError
from corrfractal.common.process import peak_rss_mb
from corrfractal.common.report_page import Picture
from inference.config import InferenceConfig
from inference.datasets.youtubevos_files import Video, open_video, video_names
from inference.load import ModelSource
from inference.metrics.jf import ObjectScore, frame_scores
from inference.prompts.mask_images import encode_mask, read_mask
from inference.protocols import Model
from inference.reports.benchmark_report import later, mask_strip, some

from .base import (
    Advance,
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
from .davis import SequenceResult, object_lines

U8 = npt.NDArray[np.uint8]

SUBMISSION = "Annotations"
FOUR = ("J_seen", "J_unseen", "F_seen", "F_unseen")


@dataclass(frozen=True, kw_only=True)
class YoutubeVosSummary(Summary):
    """Scores over all objects that have a public truth, fractions 0..1; with none, there are masks
    and no scores.

    Attributes:
        objects: scores of every object.
        seen: whether each object's category is among the training set's; None where no category is
            public.
    """

    objects: tuple[ObjectScore, ...]
    seen: tuple[bool | None, ...]

    def four(self) -> dict[str, float | None]:
        """J and F of seen and unseen categories; None for a group without objects."""
        found: dict[str, float | None] = {}
        for measure in "JF":
            for group, wanted in (("seen", True), ("unseen", False)):
                chosen = [
                    o for o, seen in zip(self.objects, self.seen, strict=True) if seen is wanted
                ]
                mean = (
                    float(np.mean([getattr(o, measure).mean for o in chosen])) if chosen else None
                )
                found[f"{measure}_{group}"] = mean
        return {name: found[name] for name in FOUR}

    @property
    def overall(self) -> float | None:
        """Mean of the four, the number that the benchmark ranks by; None if a group has no objects."""
        values = [value for value in self.four().values() if value is not None]
        return float(np.mean(values)) if len(values) == len(FOUR) else None

    def measures(self) -> dict[str, float]:
        """Those of the five figures that exist."""
        return {k: v for k, v in {"overall": self.overall, **self.four()}.items() if v is not None}

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``scores.json``."""
        pairs = zip(self.objects, self.seen, strict=True)
        means = {
            m: float(np.mean([getattr(o, m).mean for o in self.objects])) if self.objects else None
            for m in "JF"
        }
        return {
            "dataset": self.dataset,
            "sequences": self.sequences,
            "overall": self.overall,
            **self.four(),
            **means,
            "per_object": {
                o.name: {"J": o.J.mean, "F": o.F.mean, "seen": seen} for o, seen in pairs
            },
            "model": self.model,
            "seconds_per_frame": self.seconds_per_frame,
            "peak_rss_mb": self.peak_rss_mb,
        }

    def lines(self) -> list[str]:
        """A row per object, and the benchmark's figures."""
        if not self.objects:
            return [
                "no truth beyond the first annotations: there are masks to submit, and no scores"
            ]
        figures = ", ".join(
            f"{name} {'-' if value is None else f'{value:.4f}'}"
            for name, value in {"overall": self.overall, **self.four()}.items()
        )
        return [*object_lines(self.objects, ""), figures]


@dataclass(frozen=True)
class YoutubeVos:
    """YouTube-VOS, semi-supervised."""

    data: Path
    split: str = "valid"

    @property
    def dataset(self) -> str:
        """Such as ``youtubevos-valid``."""
        return f"youtubevos-{self.split}"

    def names(self) -> tuple[str, ...]:
        """Names of the videos."""
        return video_names(self.data, self.split)

    def predictions(self, name: str, out: Path) -> tuple[Path, ...]:
        """The masks that ``evaluate`` writes for a video."""
        frames = open_video(self.data, name, self.split).frames
        return tuple(out / SUBMISSION / name / f"{frame.stem}.png" for frame in frames)

    def evaluate(
        self, name: str, out: Path, source: ModelSource, model: Model, config: InferenceConfig
    ) -> SequenceResult:
        """Propagate one video, store a mask for every frame and the scores, and return them.

        Raises:
            NotFoundError, MaskError, VideoError: a file of the video is missing or damaged; names
            it.
        """
        video = open_video(self.data, name, self.split)
        written = sequence_note(out, name)
        seconds: list[float] = []
        masks: dict[str, U8] = {}
        predicted = _masks(video, model, config, seconds)
        for frame, path, mask in zip(
            video.frames, self.predictions(name, out), predicted, strict=True
        ):
            written.write(path, encode_mask(mask))
            if frame.stem in video.annotations:
                masks[frame.stem] = mask
        result = SequenceResult(
            name=name,
            digest=result_digest(video.fingerprint(), source, config),
            frames=len(video.frames),
            seconds=sum(seconds),
            peak_rss_mb=peak_rss_mb(),
            objects=_score(video, masks),
        )
        store(out, result)
        return result

    def stored(
        self, name: str, out: Path, source: ModelSource, config: InferenceConfig
    ) -> SequenceResult | None:
        """The result of an earlier run, if model, settings, files and all masks are still the same."""
        digest = result_digest(
            open_video(self.data, name, self.split).fingerprint(), source, config
        )
        return load(SequenceResult, out, name, digest, self.predictions(name, out))

    def summarize(
        self, results: Sequence[SequenceResult], source: ModelSource, out: Path
    ) -> YoutubeVosSummary:
        """Scores over all videos, with ``scores.json`` written."""
        objects = [o for result in results for o in result.objects]
        summary = self._summary(objects, len(results), model=source.name, out=out, **cost(results))
        write_scores(out, summary)
        return summary

    def strip(self, result: SequenceResult, out: Path, opacity: float) -> Picture:
        """Some frames under their objects: annotated ones, where there are any after the first."""
        video = open_video(self.data, result.name, self.split)
        known = [t for t, frame in enumerate(video.frames) if t and frame.stem in video.annotations]
        ts = some(known or later(len(video.frames)))
        stems = [video.frames[t].stem for t in ts]
        shown = []
        for t, stem in zip(ts, stems, strict=True):
            frame = video.frame(t)
            truth = video.annotation(stem, frame.shape[:2]) if known else None
            shown.append((frame, read_mask(out / SUBMISSION / result.name / f"{stem}.png"), truth))
        return mask_strip(shown, stems, opacity)

    def score(self, masks: Path, advance: Advance = lambda n: None) -> YoutubeVosSummary:
        """Score masks made elsewhere, laid out as ``masks/<video>/<frame>.png``; reads the scored
        frames only.

        Raises:
            NotFoundError: the data set, its truth, or a mask file, is missing; names it.
            MaskError: a mask is unreadable, of another size, or holds an id that the video does not
            have.
        """

        def score_one(name: str) -> Sequence[ObjectScore]:
            video = open_video(self.data, name, self.split)
            report_unknown(masks / name, (path.name for path in video.frames))
            return _score(video, _Stored(video, masks / name))

        names = self.names()
        objects = list(chain(*score_each(names, masks, score_one, advance)))
        if not objects:
            raise NotFoundError(
                f"{self.data / self.split / 'Annotations'} holds the first annotation of every "
                "object only: there is no truth to score against"
            )
        return self._summary(objects, len(names))

    def _summary(
        self, objects: Sequence[ObjectScore], sequences: int, **facts: Any
    ) -> YoutubeVosSummary:
        about = {
            name: open_video(self.data, name, self.split).objects
            for name in {o.sequence for o in objects}
        }
        seen = tuple(about[o.sequence][o.object_id].seen for o in objects)
        return YoutubeVosSummary(
            dataset=self.dataset, objects=tuple(objects), seen=seen, sequences=sequences, **facts
        )


def _masks(
    video: Video, model: Model, config: InferenceConfig, seconds: list[float]
) -> Iterator[U8]:
    """A mask per frame: predicted, and overwritten by the objects that are given there, which the
    memory keeps."""
    first = video.frame(0)
    size = first.shape[:2]
    given = video.given(0, size)
    mask = np.zeros(size, dtype=np.uint8) if given is None else given
    tracker = model.tracker(first, mask, config.tracker)
    yield mask
    for t in range(1, len(video.frames)):
        frame, given = video.frame(t), video.given(t, size)
        started = time.perf_counter()
        mask = tracker.step(frame, given)
        seconds.append(time.perf_counter() - started)
        yield mask


def _score(video: Video, masks: Mapping[str, U8]) -> tuple[ObjectScore, ...]:
    """J and F of the objects that have a truth beyond their first annotation."""
    size = video.frame(0).shape[:2]
    scored: dict[int, list[tuple[float, float]]] = {i: [] for i in video.objects if video.truth(i)}
    for stem in sorted({stem for i in scored for stem in video.truth(i)}):
        truth, mask = video.annotation(stem, size), masks[stem]
        for i, frames in scored.items():
            if stem in video.truth(i):
                frames.append(frame_scores(truth == i, mask == i))
    return tuple(
        ObjectScore(
            sequence=video.name,
            object_id=i,
            j_frames=tuple(j for j, _ in frames),
            f_frames=tuple(f for _, f in frames),
        )
        for i, frames in scored.items()
    )


class _Stored(dict[str, U8]):
    """Masks by the name of their frame, read when asked for."""

    def __init__(self, video: Video, folder: Path) -> None:
        super().__init__()
        self._video, self._folder, self._size = video, folder, video.frame(0).shape[:2]

    def __missing__(self, stem: str) -> U8:
        path = self._folder / f"{stem}.png"
        mask = read_mask(path, self._size)
        strange = sorted(set(np.unique(mask).tolist()) - {0, *self._video.objects})
        if strange:
            known = ", ".join(map(str, sorted(self._video.objects)))
            raise MaskError(
                f"the mask {path} holds the id {strange[-1]}, but {self._video.name} has objects "
                f"{known}"
            )
        return mask
