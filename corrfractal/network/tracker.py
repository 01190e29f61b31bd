"""Label propagation through a video (III-E2, IV-A): the correspondence module alone, with memory
frames.

``Tracker`` propagates the objects of masks and feeds hard decisions back; ``LabelTracker``
propagates soft labels. ``propagator`` holds what both share: embedding, memory, prediction.

Shapes: K labels (channels); H x W the frame, h x w a reduced grid.

Deviations from the paper: annotated frames after the first stay in memory too, and objects may
begin in any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from corrfractal.common.errors import MaskError

from .propagator import Propagator
from .tracker_config import FAST, TrackerConfig, working_size

if TYPE_CHECKING:
    from torch import Tensor

    from .model import CorrFractal

__all__ = ["FAST", "LabelTracker", "Tracker", "TrackerConfig", "working_size"]

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


class Tracker(Propagator):
    """Propagates the objects of a first mask, frame by frame.

    Args:
        model: the network; it is switched to evaluation mode.
        first_frame: uint8 (H, W, 3) RGB.
        first_mask: uint8 (H, W) object ids, 0 is background.
        config: None uses the defaults.

    Raises:
        MaskError: frame or mask have the wrong size or type.
    """

    def __init__(
        self,
        model: CorrFractal,
        first_frame: U8,
        first_mask: U8,
        config: TrackerConfig | None = None,
    ) -> None:
        super().__init__(model, first_frame, config)
        self._check(first_frame, first_mask)
        self._add_objects(first_mask)
        with torch.inference_mode():
            targets = self._embed(first_frame).f
            self._remember(targets, ids=torch.tensor(first_mask, device=self._device))

    def step(self, frame: U8, mask: U8 | None = None) -> U8:
        """Predict the labels of the next frame.

        Args:
            frame: uint8 (H, W, 3) RGB, of the first frame's size.
            mask: annotation of this frame, if there is one. Its objects, known or new, are exactly
                where it shows them, the others where they are predicted; the frame stays in memory.

        Returns:
            uint8 (H, W) object ids, as in the masks given.

        Raises:
            MaskError: frame or mask have the wrong size or type.
        """
        self._check(frame, mask)
        with torch.inference_mode():
            targets = self._predict(frame)
            labels = self._ids[self._decide()]

            if mask is not None:
                annotated = mask > 0
                labels = np.where(np.isin(labels, mask[annotated]), np.uint8(0), labels)
                labels = np.where(annotated, mask, labels)
                self._add_objects(mask)
                self._keep_annotated()

            # An annotation is certain, and fed back hard in either case.
            if mask is not None:
                self._certainty = None
            if self.config.soft and mask is None:
                self._remember(targets, q=self._soft_labels())
            else:
                self._remember(targets, ids=torch.tensor(labels, device=self._device))
        return labels

    @property
    def certainty(self) -> U8 | None:
        """Certainty of the labels of the latest frame on their grid, uint8 (h, w) in 255ths, see
        ``corrfractal.network.certainty``; ``restore`` needs it. None: all labels are certain."""
        return None if self._certainty is None else self._certainty[0, 0].cpu().numpy()

    def probability(self, object_id: int) -> F32:
        """Probability of an object at every pixel of the latest frame, before annotations;
        float32 (H, W).

        Raises:
            ValueError: no such object, or no step was taken yet.
        """
        found = np.flatnonzero(self._ids == object_id)
        if not found.size or self._t == 0:
            raise ValueError(f"object {object_id} has no probability yet")
        channel = int(found[0])

        first = 0
        for f, q in self._parts:
            if channel < first + q.shape[1]:
                with torch.inference_mode():
                    probability = self._probability(f, q[:, channel - first, None])
                    return probability[0].float().cpu().numpy()
            first += q.shape[1]
        # An object that this frame's annotation brought was not predicted.
        return np.zeros(self._size, dtype=np.float32)

    def restore(
        self,
        frame: U8,
        mask: U8,
        *,
        resume_at: int,
        annotated: bool = False,
        certainty: U8 | None = None,
    ) -> None:
        """Add the next frame, whose labels an earlier run stored, to the memory without predicting.

        Args:
            frame, mask: the frame, and what ``step`` returned for it.
            resume_at: index of the first frame that ``step`` will be called for.
            annotated: whether ``step`` was given a mask for it.
            certainty: what ``certainty`` was after that step.

        Raises:
            MaskError: frame or mask have the wrong size or type.
        """
        self._check(frame, mask)
        self._t += 1
        self._add_objects(mask)
        if annotated:
            self._keep_annotated()

        # Embedding costs most of a step: skip frames that will have left the memory.
        recent = self._t >= resume_at - max(self.config.short_term, default=0)
        ids = torch.tensor(mask, device=self._device)
        self._certainty = None
        if certainty is not None:
            self._certainty = torch.tensor(certainty, device=self._device)[None, None]
        with torch.inference_mode():
            if recent or annotated or self._t in self.config.long_term:
                self._remember(self._embed(frame).f, ids=ids)
            else:
                self._locate(ids)

    def _decide(self) -> npt.NDArray[np.int64]:
        """The most likely channel of every pixel, int64 (H, W); the lowest wins a tie."""
        best: Tensor | None = None
        first = 0
        for q in self._chunks():
            value, channel = q.max(dim=0)
            if best is None:
                best, winner = value, channel
            else:
                winner = torch.where(value > best, channel + first, winner)
                best = torch.maximum(value, best)
            first += len(q)
        return winner.cpu().numpy()

    def _add_objects(self, mask: U8) -> None:
        """Give a channel to each object that has none."""
        self._ids = np.append(self._ids, np.setdiff1d(mask, self._ids))

    def _keep_annotated(self) -> None:
        if self.config.annotated:
            self._annotated = [*self._annotated, self._t][-self.config.annotated :]

    def _check(self, frame: U8, mask: U8 | None) -> None:
        self._check_frame(frame)
        if mask is not None and (mask.dtype != np.uint8 or mask.shape != self._size):
            raise MaskError(
                f"a mask must be uint8 {self._size}, like its frame; got {mask.dtype} {mask.shape}"
            )


class LabelTracker(Propagator):
    """Propagates soft labels, such as heat maps of key points; they are always fed back soft.

    Args:
        model: the network; it is switched to evaluation mode.
        first_frame: uint8 (H, W, 3) RGB.
        labels: float32 (K, H, W) of the first frame, K up to 256; channels do not interact.
        config: None uses the defaults.

    Raises:
        MaskError: frame or labels have the wrong size or type.
    """

    _has_background = False

    def __init__(
        self,
        model: CorrFractal,
        first_frame: U8,
        labels: F32,
        config: TrackerConfig | None = None,
    ) -> None:
        super().__init__(model, first_frame, config)
        self._check_frame(first_frame)
        if labels.ndim != 3 or labels.shape[1:] != self._size or labels.dtype != np.float32:
            height, width = self._size
            raise MaskError(
                f"labels must be float32 (K, {height}, {width}), like their frame; got "
                f"{labels.dtype} {labels.shape}"
            )
        self._ids = np.arange(len(labels), dtype=np.uint8)
        with torch.inference_mode():
            targets = self._embed(first_frame).f
            self._remember(targets, q=torch.tensor(labels, device=self._device)[None])

    def step_labels(self, frame: U8) -> F32:
        """Predict the labels of the next frame, float32 (K, H, W).

        Raises:
            MaskError: the frame has the wrong size or type.
        """
        self._check_frame(frame)
        with torch.inference_mode():
            targets = self._predict(frame)
            self._remember(targets, q=self._soft_labels())
            return np.concatenate([labels.float().cpu().numpy() for labels in self._chunks()])
