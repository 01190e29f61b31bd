"""VIP evaluation: the parts of the first frame are carried through the video, scored by mean IoU.

Frames and first mask are resized to 560 x 560, masks back to the truth by nearest neighbour. One
confusion matrix is kept over the whole data set. ``mIoU`` counts the given first frames too, as the
scripts of the paper's siblings do; ``mIoU_predicted`` leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import MaskError
from corrfractal.common.process import peak_rss_mb
from corrfractal.common.report_page import Picture
from inference.config import InferenceConfig
from inference.datasets.vip_files import PARTS, Video, open_video, video_names
from inference.load import ModelSource
from inference.metrics.iou import I64, confusion, iou, mean_iou
from inference.prompts.mask_images import encode_mask, read_mask
from inference.propagation.track import track
from inference.protocols import Model
from inference.reports.benchmark_report import later, mask_strip, some

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
Rows = tuple[tuple[int, ...], ...]

SIZE = 560


@dataclass(frozen=True, kw_only=True)
class PartsResult(Result):
    """One video: confusion matrices (truth by prediction, pixels) of the given first frame and of
    all others."""

    first: Rows
    others: Rows

    @property
    def line(self) -> str:
        """Mean IoU of this video's predicted frames."""
        return f"mIoU {mean_iou(np.array(self.others)):.3f}"

    @property
    def score(self) -> float | None:
        """Mean IoU of the predicted frames."""
        value = mean_iou(np.array(self.others))
        return None if np.isnan(value) else value


@dataclass(frozen=True, kw_only=True)
class PartsSummary(Summary):
    """Confusion matrices over all videos: of the given first frames, and of all others."""

    first: I64
    others: I64

    def measures(self) -> dict[str, float]:
        """Mean IoU with and without the first frames."""
        return {"mIoU": mean_iou(self.first + self.others), "mIoU_predicted": mean_iou(self.others)}

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``scores.json``."""
        return {
            "dataset": self.dataset,
            "sequences": self.sequences,
            **self.measures(),
            "per_part": {
                name: None if np.isnan(v) else float(v)
                for name, v in zip(PARTS, self._each(), strict=True)
            },
            "model": self.model,
            "seconds_per_frame": self.seconds_per_frame,
            "peak_rss_mb": self.peak_rss_mb,
        }

    def lines(self) -> list[str]:
        """A row per part, and the means."""
        width = max(map(len, PARTS))
        rows = [
            f"{n:{width}}  {'-' if np.isnan(v) else f'{v:.4f}'}"
            for n, v in zip(PARTS, self._each(), strict=True)
        ]
        means = [f"{name:{width}}  {value:.4f}" for name, value in self.measures().items()]
        return [f"{'part':{width}}  IoU", *rows, *means]

    def _each(self) -> npt.NDArray[np.float64]:
        return iou(self.first + self.others)


@dataclass(frozen=True)
class Vip:
    """VIP, part propagation."""

    data: Path
    split: str = "val"

    @property
    def dataset(self) -> str:
        """Such as ``vip-val``."""
        return f"vip-{self.split}"

    def names(self) -> tuple[str, ...]:
        """Names of the videos."""
        return video_names(self.data, self.split)

    def predictions(self, name: str, out: Path) -> tuple[Path, ...]:
        """The masks that ``evaluate`` writes for a video."""
        return tuple(
            out / "masks" / name / f"{frame.stem}.png"
            for frame in open_video(self.data, name).frames
        )

    def evaluate(
        self, name: str, out: Path, source: ModelSource, model: Model, config: InferenceConfig
    ) -> PartsResult:
        """Propagate the parts of one video, store its masks, of the truth's size, and scores, and
        return them.

        Raises:
            NotFoundError, MaskError, VideoError: a file of the video is missing or damaged; names
            it.
        """
        video = open_video(self.data, name)
        first = _resize(video.first(), (SIZE, SIZE))
        frames = (_square(video.frame(t)) for t in range(len(video.frames)))
        paths, written = self.predictions(name, out), sequence_note(out, name)
        seconds: list[float] = []

        def masks() -> Iterator[U8]:
            for t, step in enumerate(track(frames, first, model, config)):
                seconds.append(step.seconds)
                mask = video.first() if t == 0 else _resize(step.mask, video.annotation(t).shape)
                written.write(paths[t], encode_mask(mask))
                yield mask

        given, others = _confusions(video, masks())
        result = PartsResult(
            name=name,
            digest=result_digest(video.fingerprint(), source, config),
            frames=len(video.frames),
            seconds=sum(seconds),
            peak_rss_mb=peak_rss_mb(),
            first=_rows(given),
            others=_rows(others),
        )
        store(out, result)
        return result

    def stored(
        self, name: str, out: Path, source: ModelSource, config: InferenceConfig
    ) -> PartsResult | None:
        """The result of an earlier run, if model, settings, files and all masks are still the same."""
        digest = result_digest(open_video(self.data, name).fingerprint(), source, config)
        return load(PartsResult, out, name, digest, self.predictions(name, out))

    def summarize(
        self, results: Sequence[PartsResult], source: ModelSource, out: Path
    ) -> PartsSummary:
        """Scores over all videos, with ``scores.json`` written."""
        given, others = (
            np.sum([getattr(r, which) for r in results], axis=0) for which in ("first", "others")
        )
        summary = PartsSummary(
            dataset=self.dataset,
            first=given,
            others=others,
            sequences=len(results),
            model=source.name,
            out=out,
            **cost(results),
        )
        write_scores(out, summary)
        return summary

    def strip(self, result: PartsResult, out: Path, opacity: float) -> Picture:
        """Some frames under their parts."""
        video = open_video(self.data, result.name)
        shown = [
            (video.frames[t].stem, video.frame(t), video.annotation(t))
            for t in some(later(len(video.frames)))
        ]
        return mask_strip(
            [
                (
                    frame,
                    read_mask(out / "masks" / result.name / f"{stem}.png"),
                    np.where(truth < len(PARTS), truth, 0),
                )
                for stem, frame, truth in shown
            ],
            [stem for stem, *_ in shown],
            opacity,
        )

    def score(self, masks: Path, advance: Advance = lambda n: None) -> PartsSummary:
        """Score masks made elsewhere, laid out as ``masks/<video>/<frame>.png``, of any size.

        Raises:
            NotFoundError: the data set, or a mask file, is missing; names it.
            MaskError: a mask is unreadable, or holds an id that is no part.
        """

        def score_one(name: str) -> I64:
            video = open_video(self.data, name)
            report_unknown(masks / name, (path.name for path in video.annotations))
            return np.stack(
                _confusions(video, (_read(masks / name / path.name) for path in video.annotations))
            )

        names = self.names()
        totals = np.sum(score_each(names, masks, score_one, advance), axis=0)
        return PartsSummary(
            dataset=self.dataset, first=totals[0], others=totals[1], sequences=len(names)
        )


def _confusions(video: Video, masks: Iterator[U8]) -> tuple[I64, I64]:
    """Confusion matrices of the first frame and of all others; masks are brought to the truth's
    size."""
    totals = np.zeros((2, len(PARTS), len(PARTS)), dtype=np.int64)
    for t, mask in enumerate(masks):
        truth = video.annotation(t)
        totals[min(t, 1)] += confusion(truth, _resize(mask, truth.shape), len(PARTS))
    return totals[0], totals[1]


def _read(path: Path) -> U8:
    mask = read_mask(path)
    if mask.max() >= len(PARTS):
        raise MaskError(
            f"the mask {path} holds the id {mask.max()}, but parts are 0..{len(PARTS) - 1}"
        )
    return mask


def _square(frame: U8) -> U8:
    shrinks = max(frame.shape[:2]) > SIZE
    return np.asarray(
        cv2.resize(
            frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
    )


def _resize(mask: U8, size: tuple[int, ...]) -> U8:
    """Nearest neighbour, by the centres of pixels."""
    if mask.shape == size:
        return mask
    return np.asarray(cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT))


def _rows(matrix: I64) -> Rows:
    return tuple(tuple(int(n) for n in row) for row in matrix)
