"""The passes of a tracker over one video: forward from the first frame that something is given for,
then backward.

A mask is written as soon as it is known. A pass that finds masks of an earlier run resumes behind
them: the frames that the tracker still asks for are embedded again, so that the rest comes out as
if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import CallError, VideoError
from corrfractal.common.output_guard import Written
from corrfractal.network.tracker import TrackerConfig
from corrfractal.video import Video
from corrfractal.video.decoders import Frame
from inference.prompts.keypoints import Points, heat_maps, locate
from inference.prompts.mask_images import encode_mask, read_mask
from inference.prompts.shapes import Prompts

from .load import Model, Tracker
from .outputs import Track, encode_png, mask_file

U8 = npt.NDArray[np.uint8]

BACKWARD_BYTES = 128 << 20  # frames decoded forward and held, to be used backward


@runtime_checkable
class SoftTracker(Tracker, Protocol):
    """A tracker that gives probabilities and can resume from the masks of an earlier run."""

    def probability(self, object_id: int) -> npt.NDArray[np.float32]: ...

    def restore(self, frame: U8, mask: U8, *, resume_at: int, annotated: bool = False) -> None: ...


class LabelTracker(Protocol):
    """Carries soft labels, float32 (K, H, W), to the next frame."""

    def step_labels(self, frame: U8) -> npt.NDArray[np.float32]: ...


@runtime_checkable
class LabelModel(Protocol):
    """A model that follows soft labels."""

    def label_tracker(
        self, first_frame: U8, labels: npt.NDArray[np.float32], config: TrackerConfig
    ) -> LabelTracker: ...


@dataclass(kw_only=True)
class Totals:
    """What the passes did: frames with a result, those kept from an earlier run, steps and their
    seconds."""

    frames: int = 0
    kept: int = 0
    steps: int = 0
    seconds: float = 0.0
    error: VideoError | None = None


@dataclass(frozen=True, kw_only=True)
class Follower:
    """What all passes over a video share: ``out`` is the folder for masks, ``written`` notes those
    that are ours."""

    video: Video
    out: Path
    written: Written
    model: Model
    config: TrackerConfig
    advance: Callable[[int], None]
    probabilities: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames."""
        return self.video.info.height, self.video.info.width

    def follow_masks(self, prompts: Prompts) -> Totals:
        """Write a mask for every frame; later given masks correct and add objects in the
        forward pass.

        Raises:
            CallError: probabilities are wanted of a model that has none.
        """
        totals = Totals()
        first, *later = prompts.frames
        passes: list[tuple[range, list[int]]] = [
            (self._forward(first), later),
            (self._back(first), []),
        ]
        for order, corrected in passes:
            try:
                self._mask_pass(order, prompts, corrected, totals)
            except VideoError as exc:
                totals.error = totals.error or exc
        return totals

    def follow_points(self, points: Points) -> tuple[Totals, dict[int, Track]]:
        """Positions and confidence of the points on every frame.

        Raises:
            CallError: the model follows masks only.
        """
        totals, tracks = Totals(), dict[int, Track]()
        for order in (self._forward(points.frame), self._back(points.frame)):
            try:
                self._point_pass(order, points, tracks, totals)
            except VideoError as exc:
                totals.error = totals.error or exc
        return totals, tracks

    def _mask_pass(
        self, order: range, prompts: Prompts, later: Sequence[int], totals: Totals
    ) -> None:
        first = prompts.mask(prompts.frames[0], self.size)
        ids = set(np.unique(first)) - {0}
        kept = self._kept(order)
        if kept == len(order):  # nothing is left to do
            # The forward pass has counted the frame where both begin
            fresh = kept - (order.step < 0)
            totals.frames += fresh
            totals.kept += fresh
            self.advance(fresh)
            return
        tracker: Tracker | None = None
        for position, frame in enumerate(self._frames(order)):
            given = prompts.mask(frame.index, self.size) if frame.index in later else None
            ids |= set() if given is None else set(np.unique(given)) - {0}
            if tracker is None:
                tracker, mask = self.model.tracker(frame.image, first, self.config), first
                kept = kept if isinstance(tracker, SoftTracker) and not self.config.soft else 0
                if position == 0 and order.step < 0:
                    continue  # the forward pass has written the first mask
            elif position < kept and isinstance(tracker, SoftTracker):
                mask = read_mask(self._mask_file(frame.index), self.size)
                tracker.restore(frame.image, mask, resume_at=kept, annotated=given is not None)
            else:
                started = time.perf_counter()
                mask = tracker.step(frame.image, given)
                totals.seconds += time.perf_counter() - started
                totals.steps += 1
            if position < kept:
                totals.kept += 1
            else:
                self._save(
                    frame.index, mask, tracker, sorted(ids), given=first if position == 0 else given
                )
            totals.frames += 1
            self.advance(1)

    def _save(
        self, index: int, mask: U8, tracker: Tracker, ids: list[int], given: U8 | None
    ) -> None:
        """The mask last: where it is, the frame is done."""
        if self.probabilities:
            if not isinstance(tracker, SoftTracker):
                raise CallError(
                    "this model has no probabilities: it is a baseline that gives masks alone"
                )
            for i in ids:
                p = (mask == i).astype(np.float32) if given is not None else tracker.probability(i)
                path = mask_file(self.out / "probabilities" / str(i), self.names[index])
                self.written.write(path, encode_png((p * 255).round().astype(np.uint8)))
        self.written.write(self._mask_file(index), encode_mask(mask))

    def _point_pass(
        self, order: range, points: Points, tracks: dict[int, Track], totals: Totals
    ) -> None:
        if not isinstance(self.model, LabelModel):
            raise CallError("this model follows masks only: name a trained network with --model")
        tracker: LabelTracker | None = None
        for frame in self._frames(order):
            if tracker is None:
                tracker = self.model.label_tracker(
                    frame.image, heat_maps(points.xy, self.size), self.config
                )
                tracks[frame.index] = [(x, y, 1.0) for x, y in points.xy]
            else:
                started = time.perf_counter()
                heat = tracker.step_labels(frame.image)
                totals.seconds += time.perf_counter() - started
                totals.steps += 1
                tracks[frame.index] = [locate(one) for one in heat]
            totals.frames += frame.index != points.frame or order.step > 0
            self.advance(1)

    @cached_property
    def names(self) -> Sequence[str]:
        """Of the frames."""
        return self.video.names()

    def _mask_file(self, index: int) -> Path:
        return mask_file(self.out, self.names[index])

    def _forward(self, first: int) -> range:
        return range(first, self.video.info.frames)

    def _back(self, first: int) -> range:
        return range(first, -1, -1) if first else range(0)

    def _kept(self, order: range) -> int:
        """How many frames of a pass have a mask, without a gap."""
        for position, index in enumerate(order):
            if not self.written.owns(self._mask_file(index)):
                return position
        return len(order)

    def _frames(self, order: range) -> Iterator[Frame]:
        """Frames in the order given, checked for their size; backward ones in runs that fit into
        memory."""
        if order.step > 0:
            parts = [order] if order else []
        else:
            each = max(2, BACKWARD_BYTES // (3 * self.size[0] * self.size[1]))
            parts = [order[i : i + each] for i in range(0, len(order), each)]
        for part in parts:
            frames = (
                self.video.frames(sorted(part))
                if part.step < 0 or part.start
                else self.video.frames()
            )
            for frame in frames if part.step > 0 else reversed(list(frames)):
                if frame.image.shape[:2] != self.size:
                    height, width = self.size
                    new_height, new_width = frame.image.shape[:2]
                    reason = (
                        f"the picture changes from {width}x{height} to {new_width}x{new_height}; "
                        "split the video there"
                    )
                    raise VideoError(self.video.info.path, "decode", reason, frame.index)
                yield frame
