"""The network: frames and labels -> losses in training; a first mask -> masks of all later frames
in use.

Losses (eqs. 10-12): Loss = 0.5 Loss_a + 0.5 Loss_c. The appearance module is a sibling of the correspondence module,
trained with it and left out at inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corrfractal.labels.color import lab_for_network, lab_patches

from . import artifact
from .appearance import READINGS, appearance
from .backbone import Backbone, BackboneConfig
from .correspondence import CorrespondenceConfig, loss, reconstruct

if TYPE_CHECKING:
    from .tracker import Tracker, TrackerConfig

BOTTLENECKS = ("rgb", "lab", "none")
LABELS = 16  # K, most labels that a stored pseudo-label map holds


@dataclass(frozen=True, kw_only=True)
class CorrFractalConfig(BackboneConfig):
    """The whole network: the backbone's fields, the correspondence module's, and the training
    losses."""

    correspondence: CorrespondenceConfig = field(default_factory=CorrespondenceConfig)
    """Multi-density correspondence."""
    appearance: str = "literal"
    """Reading of the appearance module: ``literal``, ``time_reversed`` or ``off`` (the ablation
    without A)."""

    bottleneck: str = "rgb"
    """What the network sees, and what may be dropped from it in training: ``rgb``: one or two of R,
    G, B; ``lab``: Lab, one of a and b; ``none``: RGB, nothing is dropped."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bottleneck not in BOTTLENECKS:
            raise ValueError(
                f"bottleneck must be one of {', '.join(BOTTLENECKS)}, got {self.bottleneck!r}"
            )
        if self.appearance not in READINGS:
            raise ValueError(
                f"appearance must be one of {', '.join(READINGS)}, got {self.appearance!r}"
            )


class Losses(NamedTuple):
    """What a training step looks at, scalars."""

    total: Tensor
    appearance: Tensor
    correspondence: Tensor
    error: Tensor
    """Share of pixels whose most likely label is wrong."""
    copy_error: Tensor
    """The same share for copying the nearest reference's labels in place: what a useless network
    could do."""


class CorrFractal(nn.Module):
    """Dense video correspondence, learned from pseudo-labels."""

    def __init__(self, config: CorrFractalConfig | None = None) -> None:
        super().__init__()
        self.config = config or CorrFractalConfig()
        self.backbone = Backbone(self.config)

    def embed(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embedding F of RGB images.

        Args:
            images: (B, 3, H, W), uint8 or float in 0..1.
            keep: (B, 3) of 0 and 1, the input bottleneck: channels (R, G, B or L, a, b) set to 0
                are dropped and the others rescaled by 3 / kept. Without it colour leaks into labels
                that are made of colour.

        Returns:
            float32 (B, C, H, W).
        """
        x = images.float().div(255) if images.dtype == torch.uint8 else images
        x = lab_for_network(x) if self.config.bottleneck == "lab" else (x - 0.5) / 0.25
        if keep is not None:
            x = x * (keep * 3 / keep.sum(dim=1, keepdim=True))[:, :, None, None]
        embedding: Tensor = self.backbone(x)
        return embedding.float()

    def embed_to_match(self, images: Tensor) -> Tensor:
        """What a tracker matches: the embedding of uint8 images and, with a colour temperature,
        their Lab patches."""
        embedding = self.embed(images)
        if self.config.correspondence.similarity.colour_temperature is None:
            return embedding
        # So sharp a temperature needs every digit
        with torch.autocast(images.device.type, enabled=False):
            return torch.cat(
                (embedding, lab_patches(lab_for_network(images.float().div(255)))), dim=1
            )

    @property
    def in_training(self) -> CorrespondenceConfig:
        """The correspondence module as it is trained: by the embedding alone."""
        correspondence = self.config.correspondence
        return replace(correspondence, similarity=correspondence.similarity.in_training)

    def forward(
        self, frames: Tensor, labels: Tensor, densities: Sequence[float], keep: Tensor | None = None
    ) -> Losses:
        """Losses of a batch.

        Args:
            frames: (B, N + 1, 3, H, W): N references, nearest first, then the target; uint8 or
                float in 0..1.
            labels: uint8 or int64 (B, N + 1, H, W) pseudo-labels in 0..15.
            densities: the densities drawn for this step.
            keep: (B, 3) input bottleneck, the same for all frames of a sample.
        """
        B, M = frames.shape[:2]
        embeddings = self.embed(
            frames.flatten(0, 1), None if keep is None else keep.repeat_interleave(M, dim=0)
        )
        embeddings = embeddings.unflatten(0, (B, M))
        labels = labels.long()
        one_hot = F.one_hot(labels, LABELS).movedim(-1, 2).float()
        F_ref, F_t = embeddings[:, :-1], embeddings[:, -1]
        Q_ref, target = one_hot[:, :-1], labels[:, -1]

        reconstruction = reconstruct(F_ref, Q_ref, F_t, densities, self.in_training)
        loss_c = loss(reconstruction, target)
        if self.config.appearance == "off":
            loss_a, total = torch.zeros_like(loss_c), loss_c
        else:
            similarity = self.in_training.similarity
            guess = appearance(
                F_ref[:, 0], F_t, Q_ref[:, 0], one_hot[:, -1], self.config.appearance, similarity
            )
            loss_a = loss(guess, labels[:, 0])
            total = 0.5 * loss_a + 0.5 * loss_c
        error = (reconstruction.argmax(dim=1) != target).float().mean()
        copy_error = (labels[:, 0] != target).float().mean()
        return Losses(total, loss_a, loss_c, error, copy_error)

    def tracker(
        self,
        first_frame: npt.NDArray[np.uint8],
        first_mask: npt.NDArray[np.uint8],
        config: TrackerConfig | None = None,
    ) -> Tracker:
        """Begin to follow the objects of ``first_mask``, uint8 (H, W), through a video; see
        ``corrfractal.network.tracker``."""
        from .tracker import Tracker

        return Tracker(self, first_frame, first_mask, config)

    def label_tracker(
        self,
        first_frame: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.float32],
        config: TrackerConfig | None = None,
    ) -> Tracker:
        """Begin to follow soft labels, float32 (K, H, W); go on with ``Tracker.step_labels``."""
        from .tracker import Tracker

        return Tracker.of_labels(self, first_frame, labels, config)

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write weights and configuration as one safetensors file, whole or not at all."""
        artifact.save(self.state_dict(), self.config, path, metadata or {})

    @classmethod
    def load(cls, path: str | Path) -> CorrFractal:
        """Read a model file, ready for use (evaluation mode, CPU).

        Raises:
            NotFoundError: no such file.
            IntegrityError: damaged, or not a model of this project.
        """
        config, tensors = artifact.load(path, CorrFractalConfig)
        return artifact.build(lambda: cls(config), tensors, path).eval()
