"""Label propagation through a video (method: the correspondence module alone, with memory frames).

Memory frames are 0, 5, t-1, t-3 and t-5, as far as they exist. Each is kept as embedding and labels at every density,
made once; frames that no later step can ask for are dropped, so memory does not grow with the video. Predicted labels
are fed back as hard decisions by default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Config
from .correspondence import References, propagate, pyramid, resize_labels
from .errors import MaskError

if TYPE_CHECKING:
    from .model import CorrFractal

U8 = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TrackerConfig(Config):
    """How labels are propagated at test time."""

    densities: tuple[float, ...] = (18.0, 12.0, 6.0, 4.0, 3.0, 2.0)
    """Densities, coarse to fine; the paper's six. A network without multi-density correspondence has its own one."""
    refinement_density: float | None = None
    """Density of the R grid; None takes the network's own (1/2). A larger number is faster and coarser."""
    long_term: tuple[int, ...] = (0, 5)
    """Frames that stay in memory for good, by index."""
    short_term: tuple[int, ...] = (1, 3, 5)
    """Frames in memory by their distance from the target."""
    soft: bool = False
    """Feed back soft labels instead of hard decisions."""

    def __post_init__(self) -> None:
        if (
            not self.densities
            or min(self.densities) < 1
            or list(self.densities) != sorted(self.densities, reverse=True)
        ):
            raise ValueError(f"densities must descend to no less than 1, got {self.densities}")
        if 0 not in self.long_term or min((*self.long_term, *self.short_term)) < 0 or 0 in self.short_term:
            raise ValueError("long_term must hold frame 0, and distances in short_term must be at least 1")


FAST = TrackerConfig(densities=(12.0, 6.0, 4.0), refinement_density=3.0)
"""Three densities and an R grid of 1/3: several times faster on a CPU, coarser at boundaries."""


class Tracker:
    """Follows the objects of a first mask, frame by frame; memory is bounded whatever the video's length."""

    def __init__(
        self, model: CorrFractal, first_frame: U8, first_mask: U8, config: TrackerConfig | None = None
    ) -> None:
        self.config = config or TrackerConfig()
        self._model = model.eval()
        self._device = next(model.parameters()).device
        self._correspondence = model.config.correspondence
        if self.config.refinement_density is not None:
            self._correspondence = replace(self._correspondence, refinement_density=self.config.refinement_density)
        self._densities = self.config.densities
        if not self._correspondence.multi_density:
            self._densities = self._correspondence.density_means[:1]
        self._size = first_frame.shape[:2]
        self._memory: dict[int, list[References]] = {}
        self._ids = np.zeros(1, dtype=np.uint8)
        self._t = 0
        self._check(first_frame, first_mask)
        with torch.inference_mode():
            self._remember(pyramid(self._embed(first_frame), self._densities), self._one_hot(first_mask))

    def step(self, frame: U8, mask: U8 | None = None) -> U8:
        """Labels of the next frame.

        Args:
            frame: uint8 (H, W, 3) RGB, of the first frame's size.
            mask: an annotation of this frame where there is one: its objects overwrite the prediction, may be new, and
                are remembered.

        Returns:
            uint8 (H, W) object ids, as in the masks given.

        Raises:
            MaskError: frame or mask have the wrong size or type.
        """
        self._check(frame, mask)
        self._t += 1
        with torch.inference_mode():
            F_t = self._embed(frame)
            targets = pyramid(F_t, self._densities)
            q = propagate(self._references(), targets, F_t, self._correspondence)[0]
            labels = self._ids[q.argmax(dim=0).cpu().numpy()]
            if mask is not None:
                labels = np.where(mask > 0, mask, labels)
                q = self._one_hot(labels)
            elif not self.config.soft:
                q = self._one_hot(labels)
            self._remember(targets, q)
        return labels

    @classmethod
    def of_labels(
        cls, model: CorrFractal, first_frame: U8, labels: Float, config: TrackerConfig | None = None
    ) -> Tracker:
        """Follow soft labels instead of objects, such as the heat maps of key points: go on with ``step_labels``.

        Args:
            labels: float32 (K, H, W) of the first frame; each channel is carried for itself.
        """
        height, width = first_frame.shape[:2]
        if labels.shape[1:] != (height, width):
            raise MaskError(f"labels must be (K, {height}, {width}), like their frame; got {labels.shape}")
        tracker = cls(model, first_frame, np.zeros((height, width), dtype=np.uint8), config)
        q = torch.from_numpy(labels).to(tracker._device)
        tracker._memory[0] = [References(r.f, _at_size(q, r.f)) for r in tracker._memory[0]]
        return tracker

    def step_labels(self, frame: U8) -> Float:
        """Labels of the next frame, float32 (K, H, W), fed back as they are.

        Raises:
            MaskError: the frame has the wrong size or type.
        """
        self._check(frame, None)
        self._t += 1
        with torch.inference_mode():
            F_t = self._embed(frame)
            targets = pyramid(F_t, self._densities)
            q = propagate(self._references(), targets, F_t, self._correspondence)[0]
            self._remember(targets, q)
        return np.asarray(q.cpu().numpy(), dtype=np.float32)

    def _references(self) -> list[References]:
        """The memory frames of this step, joined per density."""
        t = self._t
        recent = {t - back for back in self.config.short_term if back <= t}
        frames = [self._memory[i] for i in sorted(recent.union(i for i in self.config.long_term if i < t))]
        return [
            References(torch.cat([r.f for r in at_density], dim=1), torch.cat([r.q for r in at_density], dim=1))
            for at_density in zip(*frames, strict=True)
        ]

    def _remember(self, targets: list[Tensor], q: Tensor) -> None:
        """Keep this frame at every density, and forget those that no later step asks for."""
        self._memory[self._t] = [References(f[:, None], _at_size(q, f)) for f in targets]
        oldest = self._t + 1 - max(self.config.short_term, default=0)
        for i in [i for i in self._memory if i < oldest and i not in self.config.long_term]:
            del self._memory[i]

    def _one_hot(self, mask: U8) -> Tensor:
        """float (K, H, W) of a mask; objects never seen before get a channel, in the memory too."""
        new = np.setdiff1d(mask, self._ids)
        if new.size:
            self._ids = np.append(self._ids, new)
            for frame in self._memory.values():
                frame[:] = [References(r.f, F.pad(r.q, (0, 0, 0, 0, 0, new.size))) for r in frame]
        channel_of = np.zeros(256, dtype=np.int64)
        channel_of[self._ids] = np.arange(len(self._ids))
        channels = torch.from_numpy(channel_of[mask]).to(self._device)
        return F.one_hot(channels, len(self._ids)).permute(2, 0, 1).float()

    def _embed(self, frame: U8) -> Tensor:
        image = torch.from_numpy(np.ascontiguousarray(frame)).to(self._device).permute(2, 0, 1)[None]
        return self._model.embed(image)

    def _check(self, frame: U8, mask: U8 | None) -> None:
        if frame.dtype != np.uint8 or frame.shape != (*self._size, 3):
            raise MaskError(f"frames must be uint8 {(*self._size, 3)}, like the first; got {frame.dtype} {frame.shape}")
        if mask is not None and (mask.dtype != np.uint8 or mask.shape != self._size):
            raise MaskError(f"a mask must be uint8 {self._size}, like its frame; got {mask.dtype} {mask.shape}")


def _at_size(q: Tensor, f: Tensor) -> Tensor:
    """Labels (K, H, W) as (1, 1, K, h, w) of an embedding (..., h, w)."""
    return resize_labels(q[None], (f.shape[-2], f.shape[-1]))[:, None]
