"""JHMDB: the joints of the first frame are propagated as heat maps and scored by PCK.

Frames are resized to 320 x 320. Each joint becomes a Gaussian (sigma 4 pixels), its map is
propagated as a soft label, and its position is the mean of the five strongest pixels of the map,
weighted by their strength.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from corrfractal.common.errors import IntegrityError, NotFoundError
from corrfractal.common.report_page import Picture
from inference.config import InferenceConfig
from inference.datasets.jhmdb_files import JOINTS, JhmdbVideo, open_video, video_names
from inference.metrics.pck import Distances, distances, pck
from inference.prompts.heat_maps import CUTOFF, find_peaks, heat_maps
from inference.propagation.outputs import dotted
from inference.protocols import Model
from inference.reports.pictures import picture_grid, sample_evenly, skip_first

from .base import PicturedBenchmark
from .mask_benchmark import square_frame
from .results import Result, SequenceScores, Summary

Float = npt.NDArray[np.float64]
Joints = tuple[tuple[tuple[float, float] | None, ...], ...]  # per frame and joint: x, y in pixels

SIZE = 320
THRESHOLDS = (0.1, 0.2)
FORMS = ("loose", "strict")


@dataclass(frozen=True, kw_only=True)
class JointScores(SequenceScores):
    """Joints of one video and their strict PCK.

    Attributes:
        points: x, y in pixels of the video per frame and joint; None where undetected.
        pck: at each of ``THRESHOLDS``.
    """

    points: Joints
    pck: tuple[float, ...]

    @property
    def line(self) -> str:
        """Strict PCK."""
        return ", ".join(
            f"PCK@{threshold} {value:.3f}"
            for threshold, value in zip(THRESHOLDS, self.pck, strict=True)
        )

    @property
    def ranking(self) -> float | None:
        """Strict PCK@0.1."""
        return _number(self.pck[0])


@dataclass(frozen=True, kw_only=True)
class PckSummary(Summary):
    """PCK over all videos, fractions 0..1; ``distances`` are those of each video."""

    distances: tuple[Distances, ...]

    def pck(self, form: str, threshold: float) -> tuple[float | None, dict[str, float | None]]:
        """PCK@threshold in the ``loose`` or ``strict`` form: the mean over joints, and that of
        each joint by name. None where no joint was detected."""
        mean, per_joint = pck([getattr(video, form) for video in self.distances], threshold)
        by_name = zip(JOINTS, per_joint, strict=True)
        return _number(mean), {name: _number(value) for name, value in by_name}

    def measures(self) -> dict[str, float]:
        """PCK at both thresholds in both forms; MLflow allows no @ in names."""
        return {
            name.replace("@", "_"): value
            for name, value in self._means().items()
            if value is not None
        }

    def fields(self) -> dict[str, Any]:
        """PCK, the share of detected joints, and PCK of each joint."""
        detected = [np.isfinite(video.strict).ravel() for video in self.distances]
        columns = {f"PCK@{threshold}": self.pck("loose", threshold)[1] for threshold in THRESHOLDS}
        return {
            **self._means(),
            "detected": float(np.mean(np.concatenate(detected))),
            "per_joint": {
                joint: {name: column[joint] for name, column in columns.items()} for joint in JOINTS
            },
        }

    def lines(self) -> list[str]:
        """A row per joint, and the means of both forms."""
        width = max(map(len, JOINTS))
        lines = [f"{'joint':{width}}  " + "  ".join(f"@{a}".ljust(6) for a in THRESHOLDS)]

        columns = [self.pck("loose", threshold)[1] for threshold in THRESHOLDS]
        for joint in JOINTS:
            cells = [_cell(column[joint]) for column in columns]
            lines.append(f"{joint:{width}}  {'  '.join(cells)}")
        for form in FORMS:
            cells = [_cell(self.pck(form, threshold)[0]) for threshold in THRESHOLDS]
            lines.append(f"{f'mean, {form}':{width}}  {'  '.join(cells)}")
        return lines

    def _means(self) -> dict[str, float | None]:
        means = {}
        for form in FORMS:
            suffix = "" if form == "loose" else f"_{form}"
            for threshold in THRESHOLDS:
                means[f"PCK@{threshold}{suffix}"] = self.pck(form, threshold)[0]
        return means


@dataclass(frozen=True)
class Jhmdb(PicturedBenchmark[JhmdbVideo, Joints, JointScores, PckSummary]):
    """Test videos of JHMDB. ``split`` is 1 (the usual one), 2, 3, or all videos."""

    split: str = "1"

    FOLDER = "points"
    SCORES = JointScores

    @property
    def dataset(self) -> str:
        """Such as ``jhmdb-split1``."""
        return f"jhmdb-split{self.split}" if self.split != "all" else "jhmdb-all"

    def names(self) -> tuple[str, ...]:
        """``<class>/<video>`` of the videos."""
        return video_names(self.data, self.split)

    def open(self, name: str) -> JhmdbVideo:
        """The files of a video."""
        return open_video(self.data, name)

    def files(self, clip: JhmdbVideo) -> list[Path]:
        """One file of joints, ``<class>/<video>.json``."""
        return [Path(f"{clip.name}.json")]

    def predict(
        self, clip: JhmdbVideo, model: Model, config: InferenceConfig
    ) -> Iterator[tuple[Joints, float]]:
        """Joints of all frames; those of the first are the annotation."""
        first = clip.frame(0)
        height, width = first.shape[:2]
        scale = SIZE / np.array([width, height], dtype=np.float64)
        # Centres of pixels are whole numbers at both sizes, so the borders, at -0.5, coincide.
        maps = heat_maps((clip.joints[0] + 0.5) * scale - 0.5, (SIZE, SIZE), cutoff=CUTOFF)
        tracker = model.label_tracker(square_frame(first, SIZE), maps, config.tracker)

        joints = [clip.joints[0]]
        seconds: list[float] = []
        for t in range(1, len(clip.joints)):
            frame = square_frame(clip.frame(t), SIZE)
            started = time.perf_counter()
            maps = tracker.step_labels(frame)
            seconds.append(time.perf_counter() - started)
            positions, _ = find_peaks(maps)
            joints.append((positions + 0.5) / scale - 0.5)
        yield _to_joints(joints), sum(seconds)

    def encode(self, prediction: Joints) -> bytes:
        """JSON with the names of the joints and their positions."""
        return f"{json.dumps({'joints': JOINTS, 'points': prediction})}\n".encode()

    def read(self, clip: JhmdbVideo, paths: Sequence[Path]) -> Iterator[Joints]:
        """Joints made elsewhere, in the format of ``encode``."""
        for path in paths:
            if not path.is_file():
                raise NotFoundError(f"no such file of joints: {path}")
            try:
                yield _JointsFile.model_validate_json(path.read_bytes()).points
            except ValidationError as exc:
                reason = exc.errors()[0]["msg"]
                raise IntegrityError(f"{path} is not a file of joints: {reason}") from exc

    def score_clip(
        self, clip: JhmdbVideo, predictions: Iterable[tuple[int, Joints]]
    ) -> JointScores:
        """Strict PCK.

        Raises:
            IntegrityError: the joints do not fit the video.
        """
        # There is one prediction, the file of the video.
        ((_, joints),) = predictions
        strict = _distances(clip, joints).strict
        values = tuple(pck([strict], threshold)[0] for threshold in THRESHOLDS)
        return JointScores(points=joints, pck=values)

    def summary(self, scores: Mapping[str, JointScores]) -> PckSummary:
        """PCK over all videos."""
        # Computed again from the stored joints, so that rescoring stored files gives the same.
        videos = [_distances(self.open(name), video.points) for name, video in scores.items()]
        return PckSummary(dataset=self.dataset, sequences=len(scores), distances=tuple(videos))

    def strip(self, result: Result[JointScores], out: Path, opacity: float) -> Picture:
        """Some frames with their joints."""
        video = self.open(result.name)
        indices = sample_evenly(skip_first(len(video.frames)))
        # Upper row: predicted. Lower row: annotated.
        rows = [
            [dotted(video.frame(t), joints[t]) for t in indices]
            for joints in (result.scores.points, video.joints)
        ]
        names = ", ".join(video.frames[t].stem for t in indices)
        return Picture(
            data=picture_grid(rows).data,
            caption=f"Predicted (above) and annotated (below), frames {names}.",
        )


class _JointsFile(BaseModel):
    points: Joints


def _distances(video: JhmdbVideo, joints: Joints) -> Distances:
    rows = [[position or (np.nan, np.nan) for position in frame] for frame in joints]
    predicted = np.array(rows, dtype=np.float64)
    if predicted.shape != video.joints.shape:
        raise IntegrityError(
            f"the joints of {video.name} are {predicted.shape}, not {video.joints.shape} as "
            "annotated"
        )
    return distances(video.joints[1:], predicted[1:])


def _to_joints(positions: Sequence[Float]) -> Joints:
    """Positions of each frame, (15, 2), rounded to 4 decimals as they are stored."""
    return tuple(
        tuple(None if np.isnan(x) else (round(float(x), 4), round(float(y), 4)) for x, y in frame)
        for frame in positions
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _cell(value: float | None) -> str:
    return "-".ljust(6) if value is None else f"{value:.4f}"
