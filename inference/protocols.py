"""What inference needs of a model: ``corrfractal.CorrFractal`` and the baselines of
``inference.load`` provide it.

Frames are uint8 (H, W, 3) RGB; masks are uint8 (H, W) object ids, 0 = background; soft labels are
float32 (K, H, W).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from corrfractal.network.tracker import TrackerConfig

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


class MaskTracker(Protocol):
    """Propagates the mask of a first frame, frame by frame."""

    def step(self, frame: U8, mask: U8 | None = None) -> U8:
        """Mask of the next frame; an annotated ``mask`` overwrites the prediction where it is
        above 0."""
        ...


@runtime_checkable
class ResumableTracker(MaskTracker, Protocol):
    """A mask tracker with probabilities that can resume from masks of an earlier run."""

    def probability(self, object_id: int) -> F32:
        """Probability of an object in the latest frame, float32 (H, W)."""
        ...

    @property
    def certainty(self) -> U8 | None:
        """Certainty of the latest labels, uint8 (h, w), if the tracker needs it to be restored."""
        ...

    def restore(
        self,
        frame: U8,
        mask: U8,
        *,
        resume_at: int,
        annotated: bool = False,
        certainty: U8 | None = None,
    ) -> None:
        """Replay the next frame with its known ``mask`` and ``certainty`` instead of predicting it;
        ``resume_at`` is the index of the first frame that will be predicted."""
        ...


class SoftLabelTracker(Protocol):
    """Propagates soft labels of a first frame, such as heat maps, frame by frame."""

    def step_labels(self, frame: U8) -> F32:
        """Labels of the next frame."""
        ...


class Model(Protocol):
    """Makes trackers."""

    def tracker(self, first_frame: U8, first_mask: U8, config: TrackerConfig) -> MaskTracker:
        """A tracker that starts from a frame and its mask."""
        ...

    def label_tracker(
        self, first_frame: U8, labels: F32, config: TrackerConfig
    ) -> SoftLabelTracker:
        """A tracker that starts from a frame and its soft labels."""
        ...
