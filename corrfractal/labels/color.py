"""CIE Lab (D65) of sRGB (source: IEC 61966-2-1, CIE 15): its numbers, and tensors for networks that
are fed Lab, as the paper's siblings are, or matched by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

XYZ_OF_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.950456, 1.0, 1.088754)

PATCH_STRIDE = 4  # pixels between the cells of a patch
PATCH_OFFSET = 4.0
PATCH_CHANNELS = 28

_LEVEL = np.arange(256) / 255
LINEAR = np.where(_LEVEL > 0.04045, ((_LEVEL + 0.055) / 1.055) ** 2.4, _LEVEL / 12.92).astype(
    np.float32
)
"""Light of each of the 256 levels of a channel."""


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB in 0..1 -> (B, 3, H, W): L in 0..100, a and b in about -127..127."""
    import torch  # late: the pipeline takes the numbers alone

    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = torch.tensor(XYZ_OF_RGB, dtype=rgb.dtype, device=rgb.device)
    white = torch.tensor(WHITE, dtype=rgb.dtype, device=rgb.device)[:, None, None]
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear) / white
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-12) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(dim=1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def lab_for_network(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB in 0..1 -> Lab, (L - 50) / 50 and ab / 50."""
    return (rgb_to_lab(rgb) - rgb.new_tensor((50.0, 0.0, 0.0))[:, None, None]) / 50


def lab_patches(lab: Tensor) -> Tensor:
    """(B, 3, H, W) of ``lab_for_network`` -> (B, 28, H, W): the nine cells, 4 pixels apart, around
    each pixel.

    A constant comes last: with it, the cosine of two patches falls with the squared distance of
    their colours, brightness included.
    """
    import torch
    import torch.nn.functional as F

    H, W = lab.shape[-2:]
    padded = F.pad(lab, (PATCH_STRIDE,) * 4, mode="replicate")
    places = (0, PATCH_STRIDE, 2 * PATCH_STRIDE)
    cells = [padded[..., y : y + H, x : x + W] for y in places for x in places]
    return torch.cat([*cells, lab.new_full((lab.shape[0], 1, H, W), PATCH_OFFSET)], dim=1)
