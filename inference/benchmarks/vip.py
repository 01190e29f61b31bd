"""VIP: the body parts of the first frame are propagated and scored by mean IoU.

Frames and the first mask are resized to 560 x 560, and masks back to the size of the annotation by
nearest neighbour. There is one confusion matrix for the data set. ``mIoU`` includes the given first
frames, as the scripts of related work do; ``mIoU_predicted`` leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import MaskError
from corrfractal.common.report_page import Picture
from inference.config import InferenceConfig
from inference.datasets.vip_files import PARTS, VipVideo, open_video, video_names
from inference.metrics.iou import I64, confusion, iou, mean_iou
from inference.prompts.mask_images import read_mask
from inference.propagation.track import track
from inference.protocols import Model
from inference.reports.pictures import mask_strip, sample_evenly, skip_first

from .base import PicturedBenchmark
from .mask_benchmark import MaskBenchmark, resize_mask, square_frame
from .results import Result, SequenceScores, Summary

U8 = npt.NDArray[np.uint8]
Rows = tuple[tuple[int, ...], ...]

SIZE = 560


@dataclass(frozen=True, kw_only=True)
class PartScores(SequenceScores):
    """Confusion matrices of one video (annotation by prediction, in pixels).

    Attributes:
        first: of the given first frame.
        others: of all other frames.
    """

    first: Rows
    others: Rows

    @property
    def line(self) -> str:
        """Mean IoU of the predicted frames."""
        return f"mIoU {mean_iou(np.array(self.others)):.3f}"

    @property
    def ranking(self) -> float | None:
        """Mean IoU of the predicted frames."""
        value = mean_iou(np.array(self.others))
        return None if np.isnan(value) else value


@dataclass(frozen=True, kw_only=True)
class PartsSummary(Summary):
    """Confusion matrices over all videos, int64 (20, 20): of given and of predicted frames."""

    first: I64
    others: I64

    def measures(self) -> dict[str, float]:
        """Mean IoU with and without the first frames."""
        return {"mIoU": mean_iou(self.first + self.others), "mIoU_predicted": mean_iou(self.others)}

    def fields(self) -> dict[str, Any]:
        """Mean IoU, and IoU of each part; None for a part that occurs nowhere."""
        return {**self.measures(), "per_part": self._per_part()}

    def lines(self) -> list[str]:
        """A row per part, and the means."""
        width = max(map(len, PARTS))
        lines = [f"{'part':{width}}  IoU"]
        for name, value in self._per_part().items():
            cell = "-" if value is None else f"{value:.4f}"
            lines.append(f"{name:{width}}  {cell}")
        for name, value in self.measures().items():
            lines.append(f"{name:{width}}  {value:.4f}")
        return lines

    def _per_part(self) -> dict[str, float | None]:
        values = iou(self.first + self.others)
        return {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(PARTS, values, strict=True)
        }


@dataclass(frozen=True)
class Vip(
    MaskBenchmark[VipVideo, PartScores, PartsSummary],
    PicturedBenchmark[VipVideo, U8, PartScores, PartsSummary],
):
    """VIP, propagation of parts."""

    split: str = "val"

    SCORES = PartScores

    @property
    def dataset(self) -> str:
        """Such as ``vip-val``."""
        return f"vip-{self.split}"

    def names(self) -> tuple[str, ...]:
        """Names of the videos."""
        return video_names(self.data, self.split)

    def open(self, name: str) -> VipVideo:
        """The files of a video."""
        return open_video(self.data, name)

    def predict(
        self, clip: VipVideo, model: Model, config: InferenceConfig
    ) -> Iterator[tuple[U8, float]]:
        """Masks of all frames, of the size of their annotations; that of the first is given."""
        first = clip.first()
        frames = (square_frame(clip.frame(t), SIZE) for t in range(len(clip.frames)))
        steps = track(frames, resize_mask(first, (SIZE, SIZE)), model, config)
        for t, step in enumerate(steps):
            # The given mask is stored as it is: resizing it twice would change its outlines.
            mask = first if t == 0 else resize_mask(step.mask, clip.annotation(t).shape)
            yield mask, step.seconds

    def read(self, clip: VipVideo, paths: Sequence[Path]) -> Iterator[U8]:
        """Masks made elsewhere, of any size."""
        for path in paths:
            mask = read_mask(path)
            if mask.max() >= len(PARTS):
                raise MaskError(
                    f"the mask {path} holds the id {mask.max()}, but parts are 0..{len(PARTS) - 1}"
                )
            yield mask

    def score_clip(self, clip: VipVideo, predictions: Iterable[tuple[int, U8]]) -> PartScores:
        """Confusion matrices; masks are resized to the annotation."""
        first = np.zeros((len(PARTS), len(PARTS)), dtype=np.int64)
        others = np.zeros_like(first)
        for t, mask in predictions:
            truth = clip.annotation(t)
            matrix = first if t == 0 else others
            matrix += confusion(truth, resize_mask(mask, truth.shape), len(PARTS))
        return PartScores(first=_rows(first), others=_rows(others))

    def summary(self, scores: Mapping[str, PartScores]) -> PartsSummary:
        """Sums of the confusion matrices."""
        return PartsSummary(
            dataset=self.dataset,
            sequences=len(scores),
            first=np.sum([video.first for video in scores.values()], axis=0),
            others=np.sum([video.others for video in scores.values()], axis=0),
        )

    def strip(self, result: Result[PartScores], out: Path, opacity: float) -> Picture:
        """Some frames with their parts."""
        video = self.open(result.name)
        files = self.predictions(result.name, out)
        indices = sample_evenly(skip_first(len(video.frames)))
        shown = []
        for t in indices:
            # Ignored pixels are shown as background.
            truth = video.annotation(t)
            parts = np.where(truth < len(PARTS), truth, 0)
            shown.append((video.frame(t), read_mask(files[t]), parts))
        return mask_strip(shown, [video.frames[t].stem for t in indices], opacity)


def _rows(matrix: I64) -> Rows:
    return tuple(tuple(int(count) for count in row) for row in matrix)
