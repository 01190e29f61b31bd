"""JHMDB evaluation: the joints of the first frame are carried through the video as heat maps,
scored by PCK.

Frames are resized to 320 x 320. Each joint is a Gaussian (sigma 4 pixels), its map is propagated as
soft labels, and its place is the mean of the map's five strongest pixels, weighted by their
strength.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from corrfractal.common.errors import IntegrityError, NotFoundError
from corrfractal.common.process import peak_rss_mb
from corrfractal.common.report_page import Picture
from inference.config import InferenceConfig
from inference.datasets.jhmdb_files import JOINTS, Video, open_video, video_names
from inference.load import ModelSource
from inference.metrics.pck import Distances, distances, pck
from inference.propagation.outputs import dotted
from inference.protocols import Model
from inference.reports.benchmark_report import later, some
from inference.reports.pictures import picture_grid

from .base import (
    Advance,
    Result,
    Summary,
    cost,
    load,
    result_digest,
    score_each,
    sequence_note,
    store,
    write_scores,
)

U8 = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]
Points = tuple[tuple[tuple[float, float] | None, ...], ...]

SIZE = 320
SIGMA = 4.0
REACH = 3  # sigmas: further away a heat map is exactly 0, so that a joint can be lost
TOP = 5
THRESHOLDS = (0.1, 0.2)


@dataclass(frozen=True, kw_only=True)
class PointsResult(Result):
    """One video's joints: ``points`` holds x, y in the video's pixels per frame and joint, None
    where undetected."""

    points: Points
    pck: tuple[float, ...]

    @property
    def line(self) -> str:
        """Strict PCK of this video."""
        return ", ".join(
            f"PCK@{a} {value:.3f}" for a, value in zip(THRESHOLDS, self.pck, strict=True)
        )

    @property
    def score(self) -> float | None:
        """Strict PCK@0.1."""
        return None if math.isnan(self.pck[0]) else self.pck[0]


class _PointsFile(BaseModel):
    points: Points


@dataclass(frozen=True, kw_only=True)
class PckSummary(Summary):
    """PCK over all videos, from the distances of each: fractions 0..1."""

    distances: tuple[Distances, ...]

    def pck(self, form: str, threshold: float) -> tuple[float | None, dict[str, float | None]]:
        """PCK@threshold in the ``loose`` or ``strict`` form: the mean over joints, and of each
        joint by name.

        None where no joint was detected.
        """
        mean, each = pck([getattr(d, form) for d in self.distances], threshold)
        return _number(mean), {
            name: _number(value) for name, value in zip(JOINTS, each, strict=True)
        }

    def measures(self) -> dict[str, float]:
        """PCK at both thresholds in both forms, under names that MLflow takes (it knows no @)."""
        return {
            name.replace("@", "_"): value
            for name, value in self._figures().items()
            if value is not None
        }

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``scores.json``."""
        counts = [np.isfinite(d.strict) for d in self.distances]
        return {
            "dataset": self.dataset,
            "sequences": self.sequences,
            **self._figures(),
            "detected": float(np.mean(np.concatenate([c.ravel() for c in counts]))),
            "per_joint": {
                name: {f"PCK@{a}": self.pck("loose", a)[1][name] for a in THRESHOLDS}
                for name in JOINTS
            },
            "model": self.model,
            "seconds_per_frame": self.seconds_per_frame,
            "peak_rss_mb": self.peak_rss_mb,
        }

    def _figures(self) -> dict[str, float | None]:
        return {
            f"PCK@{a}{_suffix(form)}": self.pck(form, a)[0]
            for form in ("loose", "strict")
            for a in THRESHOLDS
        }

    def lines(self) -> list[str]:
        """A row per joint, and the means of both forms."""
        each = [self.pck("loose", a)[1] for a in THRESHOLDS]
        width = max(map(len, JOINTS))
        rows = [
            f"{name:{width}}  " + "  ".join(_cell(column[name]) for column in each)
            for name in JOINTS
        ]
        means = [
            f"{f'mean, {form}':{width}}  "
            + "  ".join(_cell(self.pck(form, a)[0]) for a in THRESHOLDS)
            for form in ("loose", "strict")
        ]
        return [
            f"{'joint':{width}}  " + "  ".join(f"@{a}".ljust(6) for a in THRESHOLDS),
            *rows,
            *means,
        ]


@dataclass(frozen=True)
class Jhmdb:
    """JHMDB test videos of a split: 1 (the field's), 2, 3, or all videos."""

    data: Path
    split: str = "1"

    @property
    def dataset(self) -> str:
        """Such as ``jhmdb-split1``."""
        return f"jhmdb-split{self.split}" if self.split != "all" else "jhmdb-all"

    def names(self) -> tuple[str, ...]:
        """``<class>/<video>`` of the videos."""
        return video_names(self.data, self.split)

    def predictions(self, name: str, out: Path) -> tuple[Path, ...]:
        """The file of joints that ``evaluate`` writes for a video."""
        return (out / "points" / f"{name}.json",)

    def evaluate(
        self, name: str, out: Path, source: ModelSource, model: Model, config: InferenceConfig
    ) -> PointsResult:
        """Propagate the joints of one video, store and return them. They also go to
        ``points/<class>/<video>.json``.

        Raises:
            NotFoundError, IntegrityError, VideoError: a file of the video is missing or damaged;
            names it.
        """
        video = open_video(self.data, name)
        seconds: list[float] = []
        predicted = track_joints(video, model, config, seconds)
        points = _as_points(predicted)
        errors = distances(video.joints[1:], predicted[1:])
        result = PointsResult(
            name=name,
            digest=result_digest(video.fingerprint(), source, config),
            frames=len(video.joints),
            seconds=sum(seconds),
            peak_rss_mb=peak_rss_mb(),
            points=points,
            pck=tuple(pck([errors.strict], a)[0] for a in THRESHOLDS),
        )
        contents = json.dumps({"joints": JOINTS, "points": points}) + "\n"
        (path,) = self.predictions(name, out)
        sequence_note(out, name).write(path, contents.encode())
        store(out, result)
        return result

    def stored(
        self, name: str, out: Path, source: ModelSource, config: InferenceConfig
    ) -> PointsResult | None:
        """The result of an earlier run, if model, settings, files and joints are still the same."""
        digest = result_digest(open_video(self.data, name).fingerprint(), source, config)
        return load(PointsResult, out, name, digest, self.predictions(name, out))

    def summarize(
        self, results: Sequence[PointsResult], source: ModelSource, out: Path
    ) -> PckSummary:
        """Scores over all videos, with ``scores.json`` written."""
        scored = tuple(self._distances(result.name, result.points) for result in results)
        summary = PckSummary(
            dataset=self.dataset,
            distances=scored,
            sequences=len(results),
            model=source.name,
            out=out,
            **cost(results),
        )
        write_scores(out, summary)
        return summary

    def strip(self, result: PointsResult, out: Path, opacity: float) -> Picture:
        """Some frames with their joints."""
        video = open_video(self.data, result.name)
        ts = some(later(len(video.frames)))
        rows = [
            [dotted(video.frame(t), joints[t]) for t in ts]
            for joints in (result.points, video.joints)
        ]
        which = ", ".join(video.frames[t].stem for t in ts)
        return Picture(
            data=picture_grid(rows).data,
            caption=f"Predicted (above) and annotated (below), frames {which}.",
        )

    def score(self, points: Path, advance: Advance = lambda n: None) -> PckSummary:
        """Score joints made elsewhere, in ``points/<class>/<video>.json`` as ``evaluate`` writes
        them.

        Raises:
            NotFoundError: the data set, or a file of joints, is missing; names it.
            IntegrityError: a file of joints is damaged or does not fit its video; names it.
        """
        names = self.names()
        scored = score_each(
            names,
            points,
            lambda name: self._distances(name, _read_points(points / f"{name}.json")),
            advance,
        )
        return PckSummary(dataset=self.dataset, distances=tuple(scored), sequences=len(names))

    def _distances(self, name: str, points: Points) -> Distances:
        truth = open_video(self.data, name).joints
        predicted = np.array(
            [[p or (np.nan, np.nan) for p in frame] for frame in points], dtype=np.float64
        )
        if predicted.shape != truth.shape:
            raise IntegrityError(
                f"the joints of {name} are {predicted.shape}, not {truth.shape} as annotated"
            )
        return distances(truth[1:], predicted[1:])


def track_joints(
    video: Video, model: Model, config: InferenceConfig, seconds: list[float]
) -> Float:
    """Joints of every frame, float (T, 15, 2) in the video's pixels, NaN where undetected; the
    first frame's are given.

    ``seconds`` takes what the tracker spent on each frame.
    """
    first = video.frame(0)
    scale = SIZE / np.array([first.shape[1], first.shape[0]], dtype=np.float64)
    # Centres of pixels lie at whole numbers in both sizes, so their borders at -0.5 stay together.
    tracker = model.label_tracker(
        _square(first), heat_maps((video.joints[0] + 0.5) * scale - 0.5), config.tracker
    )
    joints = [video.joints[0]]
    for t in range(1, len(video.joints)):
        frame = _square(video.frame(t))
        started = time.perf_counter()
        maps = tracker.step_labels(frame)
        seconds.append(time.perf_counter() - started)
        joints.append((peaks(maps) + 0.5) / scale - 0.5)
    return np.stack(joints)


def heat_maps(joints: Float, size: int = SIZE, sigma: float = SIGMA) -> npt.NDArray[np.float32]:
    """A Gaussian of height 1 around each joint, float32 (joints, size, size); exactly 0 beyond
    three sigmas.

    Args:
        joints: (joints, 2) x, y in pixels; those far outside have an empty map.
    """
    grid = np.arange(size)
    x, y = ((grid - joints[:, k : k + 1]) ** 2 for k in (0, 1))
    squared = y[:, :, None] + x[:, None, :]
    return np.where(squared <= (REACH * sigma) ** 2, np.exp(-squared / (2 * sigma**2)), 0).astype(
        np.float32
    )


def peaks(maps: npt.NDArray[np.float32], top: int = TOP) -> Float:
    """Place of each map's joint, (joints, 2) x, y: mean of its ``top`` strongest pixels, weighted;
    NaN if all are 0.

    Args:
        maps: float32 (joints, H, W), none negative.
    """
    flat = maps.reshape(len(maps), -1)
    chosen = np.argpartition(flat, -top, axis=1)[:, -top:]
    weights = np.take_along_axis(flat, chosen, axis=1).astype(np.float64)
    total = weights.sum(axis=1)
    y, x = np.divmod(chosen, maps.shape[2])
    sums = np.stack([(x * weights).sum(axis=1), (y * weights).sum(axis=1)], axis=1)
    return np.divide(
        sums, total[:, None], out=np.full_like(sums, math.nan), where=total[:, None] > 0
    )


def _square(frame: U8) -> U8:
    shrinks = max(frame.shape[:2]) > SIZE
    return np.asarray(
        cv2.resize(
            frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
    )


def _as_points(joints: Float) -> Points:
    return tuple(
        tuple(None if np.isnan(x) else (round(float(x), 4), round(float(y), 4)) for x, y in frame)
        for frame in joints
    )


def _read_points(path: Path) -> Points:
    if not path.is_file():
        raise NotFoundError(f"no such file of joints: {path}")
    try:
        return _PointsFile.model_validate_json(path.read_bytes()).points
    except ValidationError as exc:
        raise IntegrityError(f"{path} is no file of joints: {exc.errors()[0]['msg']}") from exc


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _suffix(form: str) -> str:
    return "" if form == "loose" else f"_{form}"


def _cell(value: float | None) -> str:
    return "-".ljust(6) if value is None else f"{value:.4f}"
