"""The network (Fig. 1): frames and labels -> losses in training; a first mask -> masks of all later
frames in use.

Loss = 0.5 Loss_a + 0.5 Loss_c (eqs. 10-12). The appearance module (Loss_a) is trained beside the
correspondence module (Loss_c) and not used at inference.

Shapes: B batch, N references, M = N + 1 frames of a sample, C embedding channels, K labels, H x W
frame.

Deviation from the paper: the input bottleneck (``CorrFractal.embed``), which it does not mention.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from corrfractal.labels.color import lab_for_network, lab_patches

from . import artifact
from .appearance import appearance
from .backbone import Backbone, BackboneConfig
from .correspondence import CorrespondenceConfig, loss, reconstruct
from .embedder import Embedder

if TYPE_CHECKING:
    from corrfractal.video import Video

    from .frame_masks import FrameMask, MaskLike
    from .tracker import LabelTracker, Tracker
    from .tracker_config import TrackerConfig

LABELS = 16  # K: a stored pseudo-label map holds at most so many


@dataclass(frozen=True, kw_only=True)
class CorrFractalConfig(BackboneConfig):
    """The complete network: the backbone's fields, the correspondence module's, and the training
    losses."""

    correspondence: CorrespondenceConfig = field(default_factory=CorrespondenceConfig)
    """Multi-density correspondence."""
    appearance: Literal["literal", "time_reversed", "off"] = "literal"
    """Reading of the appearance module; ``off`` is the ablation without A."""
    bottleneck: Literal["rgb", "lab", "none"] = "rgb"
    """Input of the network, and what training may drop from it: ``rgb``: one or two of R, G, B;
    ``lab``: Lab, one of a and b; ``none``: RGB, nothing is dropped."""


class Losses(NamedTuple):
    """Results of a training step, scalars."""

    total: Tensor
    appearance: Tensor
    correspondence: Tensor
    error: Tensor
    """Share of pixels whose most likely label is wrong."""
    copy_error: Tensor
    """The same share for copying the nearest reference's labels in place: the baseline that needs
    no network."""


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
                are dropped and the others rescaled by 3 / kept. Without it the network learns to
                read colour, of which the labels are made, instead of structure.

        Returns:
            float32 (B, C, H, W).
        """
        x = self.normalize(images)
        if keep is not None:
            x = x * (keep * 3 / keep.sum(dim=1, keepdim=True))[:, :, None, None]
        embedding: Tensor = self.backbone(x)
        return embedding.float()

    def normalize(self, images: Tensor) -> Tensor:
        """RGB images (B, 3, H, W), uint8 or float in 0..1, as the backbone reads them."""
        x = images.float().div(255) if images.dtype == torch.uint8 else images
        return lab_for_network(x) if self.config.bottleneck == "lab" else (x - 0.5) / 0.25

    def embed_to_match(self, images: Tensor) -> Tensor:
        """What a tracker matches: the embedding of uint8 images (B, 3, H, W) and, with a colour
        temperature, their Lab patches; float32 (B, C or C + PATCH_CHANNELS, H, W)."""
        embedding = self.embed(images)
        if self.config.correspondence.similarity.colour_temperature is None:
            return embedding
        # Colour temperatures are so low that bfloat16 patches would all look alike.
        with torch.autocast(images.device.type, enabled=False):
            patches = lab_patches(lab_for_network(images))
            return torch.cat((embedding, patches), dim=1)

    def embedder(self) -> Embedder:
        """What a tracker embeds frames with: ``embed_to_match`` straight on reduced grids."""
        return Embedder(self)

    @property
    def in_training(self) -> CorrespondenceConfig:
        """The correspondence module in training: without the settings of test time."""
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
        images = frames.flatten(0, 1)
        keep_per_image = None if keep is None else keep[:, None].expand(-1, M, -1).flatten(0, 1)
        embeddings = self.embed(images, keep_per_image).unflatten(0, (B, M))
        F_ref, F_last = embeddings.split((M - 1, 1), dim=1)
        F_t = F_last[:, 0]

        # F.one_hot would take 8 bytes for each of 16 labels of every pixel, and on a CPU look for
        # labels out of range first.
        ids = torch.arange(LABELS, dtype=labels.dtype, device=labels.device)
        one_hot = (labels[..., None] == ids).float().movedim(-1, 2)
        labels = labels.long()
        Q_ref = one_hot[:, :-1]
        Q_t = one_hot[:, -1]
        target = labels[:, -1]

        # Loss_c: the target's labels, from all references (eq. 11)
        reconstruction = reconstruct(F_ref, Q_ref, F_t, densities, self.in_training)
        loss_c = loss(reconstruction, target)

        # Loss_a: the nearest reference's labels, at full resolution (eq. 10); then eq. 12
        reading = self.config.appearance
        if reading == "off":
            loss_a = torch.zeros_like(loss_c)
            total = loss_c
        else:
            similarity = self.in_training.similarity
            guess = appearance(F_ref[:, 0], F_t, Q_ref[:, 0], Q_t, reading, similarity)
            loss_a = loss(guess, labels[:, 0])
            total = 0.5 * loss_a + 0.5 * loss_c

        error = (reconstruction.argmax(dim=1) != target).float().mean()
        copy_error = (labels[:, 0] != target).float().mean()
        return Losses(total, loss_a, loss_c, error, copy_error)

    def propagate(
        self,
        video: str | Path | Video,
        masks: MaskLike | Mapping[int, MaskLike],
        config: TrackerConfig | None = None,
    ) -> Iterator[FrameMask]:
        """Propagate masks through a video, frame by frame; memory use is independent of its length.

        Args:
            video: file, folder of frames, or what ``corrfractal.open_video`` returned.
            masks: the mask of frame 0, or masks by frame index. A mask is uint8 (H, W) object ids
                with 0 = background, bool (H, W) for one object, or an image file. Propagation
                starts at the first of them and runs to the end; in frames with a later mask its
                objects, known or new, are exactly where it shows them.
            config: None uses the defaults.

        Returns:
            An iterator over ``FrameMask`` from the first mask's frame on, in order; that frame has
            the mask that was given.

        Raises:
            NotFoundError: no such video or mask file.
            MaskError: a mask of another size or type, for no frame of the video, or the first one
                without an object.
            VideoError: the video cannot be opened; during iteration, a frame cannot be decoded.
        """
        from .frame_masks import propagate_masks

        return propagate_masks(self, video, masks, config)

    def tracker(
        self,
        first_frame: npt.NDArray[np.uint8],
        first_mask: npt.NDArray[np.uint8],
        config: TrackerConfig | None = None,
    ) -> Tracker:
        """Tracker of the objects of ``first_mask``, uint8 (H, W), through a video that begins with
        ``first_frame``, uint8 (H, W, 3) RGB; see ``corrfractal.network.tracker``.

        Raises:
            MaskError: frame or mask have the wrong size or type.
        """
        from .tracker import Tracker

        return Tracker(self, first_frame, first_mask, config)

    def label_tracker(
        self,
        first_frame: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.float32],
        config: TrackerConfig | None = None,
    ) -> LabelTracker:
        """Tracker of soft labels, float32 (K, H, W), such as heat maps of key points; see
        ``corrfractal.network.tracker``.

        Raises:
            MaskError: frame or labels have the wrong size or type.
        """
        from .tracker import LabelTracker

        return LabelTracker(self, first_frame, labels, config)

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write weights and configuration as one safetensors file, in one atomic step."""
        artifact.save(self.state_dict(), self.config, path, metadata or {})

    @classmethod
    def load(cls, name: str | Path) -> CorrFractal:
        """Read a model, ready for use (evaluation mode, CPU).

        Args:
            name: a model file; or any name that ``--model`` takes: ``starter``, ``champion``,
                ``candidate``, a version number, ``models:/NAME@ALIAS``, ``runs:/ID/model``, or a
                folder that holds one model file.

        Raises:
            NotFoundError: no such file or model.
            CallError: the name is that of a baseline, which is no network.
            IntegrityError: damaged, or not a model of this project.
        """
        path = Path(name)
        if path.suffix != ".safetensors" and not path.is_file():
            # As text, as `corrfractal.__main__` names commands: the network knows no registry, and
            # a registered model, which serves model files only, is stored without that package.
            finder = importlib.import_module("inference.load")
            path = finder.find_weights(str(name))
        config, tensors = artifact.load(path, CorrFractalConfig)
        return artifact.build(lambda: cls(config), tensors, path).eval()
