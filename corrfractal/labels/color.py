"""CIE Lab (D65) from sRGB (sources: IEC 61966-2-1, CIE 15): the constants, conversion of tensors
for networks with Lab input, as the paper's siblings have, and Lab patches for matching by colour.

Shapes: B batch, H x W pixels.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

XYZ_OF_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.950456, 1.0, 1.088754)

PATCH_STRIDE = 4  # pixels between the cells of a patch
PATCH_OFFSET = 4.0  # the constant last channel
PATCH_CHANNELS = 28  # 9 cells of 3 channels, and the constant

_LEVEL = np.arange(256) / 255
LINEAR = np.where(_LEVEL > 0.04045, ((_LEVEL + 0.055) / 1.055) ** 2.4, _LEVEL / 12.92).astype(
    np.float32
)
"""float32 (256,): linear light of each level of a channel."""


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB in 0..1, or uint8 levels -> (B, 3, H, W): L in 0..100, a and b in about
    -127..127."""
    import torch  # imported late: the pipeline needs only the constants

    if rgb.dtype == torch.uint8:
        linear = _constant(tuple(LINEAR.tolist()), torch.float32, rgb.device)[rgb.int()]
    else:
        linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = _constant(XYZ_OF_RGB, linear.dtype, rgb.device)
    white = _constant(WHITE, linear.dtype, rgb.device)[:, None, None]
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear) / white
    # Near black CIE replaces the cube root, whose slope is infinite there, by a line.
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-12) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(dim=1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def lab_for_network(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB in 0..1, or uint8 levels -> (B, 3, H, W): (L - 50) / 50, a / 50, b / 50."""
    lab = rgb_to_lab(rgb)
    return (lab - _constant((50.0, 0.0, 0.0), lab.dtype, rgb.device)[:, None, None]) / 50


def lab_patches(lab: Tensor) -> Tensor:
    """(B, 3, H, W) of ``lab_for_network`` -> (B, PATCH_CHANNELS, H, W): nine cells around each
    pixel, 4 pixels apart, and a constant.

    With the constant, the cosine of two patches decreases with the squared distance of their
    colours, brightness included; without it, dark and bright of one hue would be equal.
    """
    import torch
    import torch.nn.functional as F

    H, W = lab.shape[-2:]
    padded = F.pad(lab, (PATCH_STRIDE,) * 4, mode="replicate")
    offsets = (0, PATCH_STRIDE, 2 * PATCH_STRIDE)
    cells = [padded[..., y : y + H, x : x + W] for y, x in itertools.product(offsets, offsets)]
    constant = lab.new_full((lab.shape[0], 1, H, W), PATCH_OFFSET)
    return torch.cat([*cells, constant], dim=1)


@functools.cache
def _constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor that is copied to a device once: each copy would wait for a GPU."""
    import torch

    # Autograd refuses tensors that inference mode made, and these are kept.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
