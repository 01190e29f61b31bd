"""Embedding of a frame on the grids that a tracker matches on, without the full resolution between.

``CorrFractal.embed_to_match`` up-samples the backbone's branches to the frame's size, sums them and
appends Lab patches; ``correspondence.resize_embedding`` then shrinks the sum. Both resizes are
linear and separable, so each branch can be brought straight to a grid by two small matrices, whose
product is that of the resizes. The result is the same but for rounding, without maps of the frame's
size, whose cost exceeded that of the convolutions at the backbone's slim width.

Shapes: C embedding channels, H x W frame, h x w a reduced grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from corrfractal.labels.color import PATCH_OFFSET, PATCH_STRIDE, lab_for_network

if TYPE_CHECKING:
    from .model import CorrFractal

Size = tuple[int, int]

BAND_ROWS = 48  # fewer rows skip more zeros, but make smaller products


class Embedder:
    """Embeds frames with a copy of the model's backbone whose batch normalisation is folded into
    its convolutions.

    Args:
        model: in evaluation mode. Later changes of its weights have no effect.
    """

    def __init__(self, model: CorrFractal) -> None:
        self._model = model
        self._backbone = model.backbone.for_inference()
        similarity = model.config.correspondence.similarity
        self._has_patches = similarity.colour_temperature is not None

    def on_grids(self, images: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
        """uint8 (1, 3, H, W) -> ``embed_to_match`` resized to each size, float32 (1, C, h, w)."""
        maps = self._backbone.on_grids(self._model.normalize(images), sizes)
        if not self._has_patches:
            return maps
        # Colour temperatures are so low that bfloat16 patches would all look alike.
        with torch.autocast(images.device.type, enabled=False):
            lab = lab_for_network(images)
            return [
                torch.cat((f, lab_patches_on_grid(lab, size)), dim=1)
                for f, size in zip(maps, sizes, strict=True)
            ]


def resample(x: Tensor, full: Size, size: Size) -> Tensor:
    """(B, C, h', w') -> (B, C, h, w): enlarged to the frame's size (bilinear), then reduced
    (bilinear, antialiased), in one step; float32."""
    vertical = _enlarge_and_reduce(x.shape[-2], full[0], size[0], x.device)
    horizontal = _enlarge_and_reduce(x.shape[-1], full[1], size[1], x.device)
    return _along_both(vertical, horizontal, x)


def lab_patches_on_grid(lab: Tensor, size: Size) -> Tensor:
    """``labels.color.lab_patches`` of (1, 3, H, W), reduced to a grid: (1, 28, h, w)."""
    H, W = lab.shape[-2:]
    h, w = size
    padded = F.pad(lab, (PATCH_STRIDE,) * 4, mode="replicate")
    vertical = _shift_and_reduce(H, h, lab.device)
    horizontal = _shift_and_reduce(W, w, lab.device)
    cells = _along_both(vertical, horizontal, padded)  # (1, 3, h * 3, w * 3)
    cells = cells.view(3, h, 3, w, 3).permute(2, 4, 0, 1, 3)
    constant = lab.new_full((1, 1, h, w), PATCH_OFFSET)
    return torch.cat((cells.reshape(1, 27, h, w), constant), dim=1)


@dataclass(frozen=True)
class _Band:
    """Rows of a matrix, of which only a few columns are not zero."""

    columns: slice
    values: Tensor


def _along_both(vertical: Sequence[_Band], horizontal: Sequence[_Band], x: Tensor) -> Tensor:
    """(..., H, W) times a matrix along each of both axes, float32."""
    # Autocast would round the matrices, which add up hundreds of pixels, to bfloat16.
    with torch.autocast(x.device.type, enabled=False):
        x = x.float().contiguous()
        x = torch.cat([band.values @ x[..., band.columns, :] for band in vertical], dim=-2)
        return torch.cat([x[..., band.columns] @ band.values.T for band in horizontal], dim=-1)


@lru_cache(maxsize=64)
def _enlarge_and_reduce(before: int, full: int, after: int, device: torch.device) -> list[_Band]:
    """(after, before): the matrix of both resizes along one axis."""
    # Not an inference tensor: it is kept for later callers, whatever their mode is.
    with torch.inference_mode(False), torch.no_grad():
        return _bands(_resize_matrix(before, full, after), device)


@lru_cache(maxsize=64)
def _shift_and_reduce(full: int, after: int, device: torch.device) -> list[_Band]:
    """(after * 3, full + 8): reduces an axis that was padded by 4, moved by -4, 0 and 4 pixels."""
    with torch.inference_mode(False), torch.no_grad():
        reduce = _resize_matrix(full, full, after)
        shifts = (0, PATCH_STRIDE, 2 * PATCH_STRIDE)
        parts = [F.pad(reduce, (shift, 2 * PATCH_STRIDE - shift)) for shift in shifts]
        return _bands(torch.stack(parts, dim=1).flatten(0, 1), device)


def _resize_matrix(before: int, full: int, after: int) -> Tensor:
    # Resizing the columns of the identity gives the columns of the matrix.
    matrix = torch.eye(before)[None, None]
    if full != before:
        matrix = _resize(matrix, full, antialias=False)
    if after != full:
        matrix = _resize(matrix, after, antialias=True)
    return matrix[0, 0]


def _bands(matrix: Tensor, device: torch.device) -> list[_Band]:
    """Split the rows so that products skip most zeros: a pixel depends on its neighbours only."""
    bands = []
    for rows in matrix.split(BAND_ROWS):
        used = rows.any(dim=0).nonzero()[:, 0]
        columns = slice(int(used[0]), int(used[-1]) + 1)
        bands.append(_Band(columns, rows[:, columns].contiguous().to(device)))
    return bands


def _resize(matrix: Tensor, length: int, *, antialias: bool) -> Tensor:
    size = (length, matrix.shape[-1])
    return F.interpolate(matrix, size, mode="bilinear", align_corners=False, antialias=antialias)
