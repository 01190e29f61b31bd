"""The passes of a tracker over one video: forward from the first prompted frame to the end, and
backward from it to frame 0.

Each mask is written as soon as it is known. A pass that finds masks of an earlier run resumes after
them: frames that the tracker still refers to are embedded again, so that the remaining masks are
those of an uninterrupted run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from corrfractal.common.errors import CallError, VideoError
from corrfractal.files.written_files import Written
from corrfractal.network.tracker import TrackerConfig
from corrfractal.video import Video
from corrfractal.video.decoders import Frame
from inference.prompts.heat_maps import FLOOR, find_peaks, heat_maps
from inference.prompts.keypoints import Points
from inference.prompts.mask_images import encode_mask, read_certainty, read_mask
from inference.prompts.shapes import Prompts
from inference.protocols import U8, MaskTracker, Model, ResumableTracker

from .outputs import PROBABILITIES, PointTrack, encode_png, mask_file

Direction = Literal["forward", "backward"]
BOTH: tuple[Direction, ...] = ("forward", "backward")

# Decoders read forward only, so a backward pass decodes runs of frames and holds each in memory.
BACKWARD_BYTES = 128 << 20


@dataclass(kw_only=True)
class PassTotals:
    """What both passes over a video did.

    Attributes:
        frames: frames with a result.
        kept: how many of them an earlier run had written.
        steps: calls of the tracker, and ``seconds`` spent in them.
        error: the first frame that could not be decoded; the other pass still runs.
    """

    frames: int = 0
    kept: int = 0
    steps: int = 0
    seconds: float = 0.0
    error: VideoError | None = None


@dataclass(frozen=True, kw_only=True)
class VideoPasses:
    """Both passes over a video.

    Attributes:
        video: the frames.
        out: folder for the masks.
        written: note of the files that this command wrote; only masks that it names are reused.
        model: makes the tracker of each pass.
        config: of the tracker.
        advance: called with the number of frames done, for the progress bar.
        probabilities: also write the probability of each object.
        directions: passes to run, in this order.
    """

    video: Video
    out: Path
    written: Written
    model: Model
    config: TrackerConfig
    advance: Callable[[int], None]
    probabilities: bool = False
    directions: tuple[Direction, ...] = BOTH

    def propagate_masks(self, prompts: Prompts) -> PassTotals:
        """Write a mask for every frame. Prompts of later frames correct and add objects in the
        forward pass.

        Raises:
            CallError: probabilities are requested of a baseline, which has none.
        """
        first, *corrected = prompts.frames
        totals = PassTotals()
        for order in self._orders(first):
            corrections = corrected if order.step > 0 else []
            try:
                self._mask_pass(order, prompts, corrections, totals)
            except VideoError as exc:
                totals.error = totals.error or exc
        return totals

    def propagate_points(self, points: Points, tracks: dict[int, PointTrack]) -> PassTotals:
        """Track key points as heat maps.

        Args:
            points: where they are on one frame.
            tracks: x, y and confidence of every point by frame; filled as they become known.
        """
        totals = PassTotals()
        for order in self._orders(points.frame):
            try:
                self._point_pass(order, points, tracks, totals)
            except VideoError as exc:
                totals.error = totals.error or exc
        return totals

    def _mask_pass(
        self, order: range, prompts: Prompts, corrected: Sequence[int], totals: PassTotals
    ) -> None:
        # Both passes begin at the same frame; the one that runs first counts it.
        counts_first = self._is_first(order)
        stored = self._count_stored(order)
        if stored == len(order):
            finished = stored if counts_first else stored - 1
            totals.frames += finished
            totals.kept += finished
            self.advance(finished)
            return

        frames = self._frames(order)
        first = next(frames, None)
        if first is None:  # a damaged video may hold fewer frames than its index promises
            return
        first_mask = prompts.mask(prompts.frames[0], self.size)
        object_ids = _object_ids(first_mask)
        tracker = self.model.tracker(first.image, first_mask, self.config)
        # A baseline cannot resume, nor can soft feedback: only hard masks are stored.
        resumable = isinstance(tracker, ResumableTracker) and not self.config.soft
        if not resumable:
            stored = 0

        # The prompted frame: its mask is the prompt itself.
        if counts_first:
            if stored:
                totals.kept += 1
            else:
                self._save(first.index, first_mask, object_ids, tracker, annotated=True)
            totals.frames += 1
            self.advance(1)

        for position, frame in enumerate(frames, start=1):
            correction = None
            if frame.index in corrected:
                correction = prompts.mask(frame.index, self.size)
                object_ids |= _object_ids(correction)
            annotated = correction is not None

            if position < stored and isinstance(tracker, ResumableTracker):
                path = self._mask_file(frame.index)
                tracker.restore(
                    frame.image,
                    read_mask(path, self.size),
                    resume_at=stored,
                    annotated=annotated,
                    certainty=read_certainty(path),
                )
                totals.kept += 1
            else:
                started = time.perf_counter()
                mask = tracker.step(frame.image, correction)
                totals.seconds += time.perf_counter() - started
                totals.steps += 1
                self._save(frame.index, mask, object_ids, tracker, annotated=annotated)
            totals.frames += 1
            self.advance(1)

    def _save(
        self, index: int, mask: U8, object_ids: set[int], tracker: MaskTracker, *, annotated: bool
    ) -> None:
        if self.probabilities:
            if not isinstance(tracker, ResumableTracker):
                raise CallError(
                    "this model is a baseline and has no probabilities; leave out "
                    "--probabilities, or name a trained network with --model"
                )
            for object_id in sorted(object_ids):
                # An annotation is certain; the tracker's probability is that of its prediction.
                probability = (
                    (mask == object_id).astype(np.float32)
                    if annotated
                    else tracker.probability(object_id)
                )
                folder = self.out / PROBABILITIES / str(object_id)
                picture = (probability * 255).round().astype(np.uint8)
                self.written.write(mask_file(folder, self.names[index]), encode_png(picture))
        certainty = tracker.certainty if isinstance(tracker, ResumableTracker) else None
        # The mask comes last: a frame that has one is complete.
        self.written.write(self._mask_file(index), encode_mask(mask, certainty))

    def _point_pass(
        self, order: range, points: Points, tracks: dict[int, PointTrack], totals: PassTotals
    ) -> None:
        frames = self._frames(order)
        first = next(frames, None)
        if first is None:
            return
        maps = heat_maps(points.xy, self.size)
        tracker = self.model.label_tracker(first.image, maps, self.config)
        tracks[first.index] = [(x, y, 1.0) for x, y in points.xy]
        if self._is_first(order):
            totals.frames += 1
            self.advance(1)

        for frame in frames:
            started = time.perf_counter()
            maps = tracker.step_labels(frame.image)
            totals.seconds += time.perf_counter() - started
            totals.steps += 1
            positions, heights = find_peaks(maps, floor=FLOOR)
            tracks[frame.index] = [
                (float(x), float(y), float(height))
                for (x, y), height in zip(positions, heights, strict=True)
            ]
            totals.frames += 1
            self.advance(1)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames."""
        return self.video.info.height, self.video.info.width

    @cached_property
    def names(self) -> Sequence[str]:
        """Names of the frames, by index."""
        return self.video.names()

    def _mask_file(self, index: int) -> Path:
        return mask_file(self.out, self.names[index])

    def _orders(self, first: int) -> list[range]:
        """The frames of each pass, from the first prompted one on."""
        forward = range(first, self.video.info.frames)
        backward = range(first, -1, -1)
        orders = [forward if name == "forward" else backward for name in self.directions]
        # Backward from frame 0 there is nothing to do, except for a lone backward pass.
        return [order for order in orders if self._is_first(order) or len(order) > 1]

    def _is_first(self, order: range) -> bool:
        return (order.step > 0) == (self.directions[0] == "forward")

    def _count_stored(self, order: range) -> int:
        """How many frames at the start of a pass have an unchanged mask, without a gap."""
        for position, index in enumerate(order):
            if not self.written.owns(self._mask_file(index)):
                return position
        return len(order)

    def _frames(self, order: range) -> Iterator[Frame]:
        """Decode frames in the order of a pass.

        Raises:
            VideoError: a frame cannot be decoded, or its size differs from that of the first.
        """
        if not order:
            return
        if order.step > 0:
            for frame in self.video.frames(order):
                self._check_size(frame)
                yield frame
            return

        length = max(2, BACKWARD_BYTES // (3 * self.size[0] * self.size[1]))
        for start in range(0, len(order), length):
            run = sorted(order[start : start + length])
            for frame in reversed(list(self.video.frames(run))):
                self._check_size(frame)
                yield frame

    def _check_size(self, frame: Frame) -> None:
        if frame.image.shape[:2] == self.size:
            return
        height, width = self.size
        new_height, new_width = frame.image.shape[:2]
        reason = (
            f"the picture changes from {width}x{height} to {new_width}x{new_height}; split the "
            "video there"
        )
        raise VideoError(self.video.info.path, "decode", reason, frame.index)


def _object_ids(mask: U8) -> set[int]:
    return {int(object_id) for object_id in np.unique(mask)} - {0}
