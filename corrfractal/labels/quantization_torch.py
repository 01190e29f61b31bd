"""``quantize_clip`` (III-A) as tensor operations on one device.

Views, pixels and standardisation are those of the compiled path; ``kmeans`` tells how the engines
of the codebook differ. One code path for CUDA and CPU; the CPU one is slower than the compiled
loops and is there for tests. Shapes: as in ``quantization``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .color import rgb_to_lab
from .hadamard import place, walsh_basis
from .kmeans import fit_centroids
from .quantization import COLOUR_CHANNELS, Codebook, QuantizationConfig, View

U8 = npt.NDArray[np.uint8]

ASSIGN_CHUNK = 1 << 20  # pixels assigned at once: bounds memory


def quantize_on(
    device: str,
    frames: U8,
    view: View,
    config: QuantizationConfig,
    rng: np.random.Generator,
    codebook: Codebook | None = None,
) -> tuple[U8, Codebook]:
    """Labels of one clip for one view; see ``quantization.quantize_clip``.

    Args:
        device: as PyTorch names it.
        rng: has drawn the view; draws the pixels to fit on and the first centroids.
    """
    channels = clip_channels(torch.from_numpy(frames).to(device), view)
    if codebook is None:
        codebook = _fit_codebook(channels, view, config, rng)
    labels = _assign(channels, codebook)
    return labels.reshape(frames.shape[:3]).cpu().numpy(), codebook


def clip_channels(frames: Tensor, view: View) -> Tensor:
    """uint8 (T, H, W, 3) -> float32 (D, T * H * W); the responses are exact, being sums of small
    integers."""
    rgb = frames.movedim(3, 1).float()
    ab = rgb_to_lab(rgb / 255)[:, 1:]
    channels = torch.cat((ab, _responses(rgb, view)), dim=1) if view.selection else ab
    return channels.movedim(1, 0).reshape(channels.shape[1], -1)


def _responses(rgb: Tensor, view: View) -> Tensor:
    """float32 (T, patterns, H, W) from (T, 3, H, W): one convolution per colour channel."""
    n = view.basis
    functions = torch.from_numpy(walsh_basis(n)).to(rgb)
    before = n // 2 - 1
    after = n // 2
    # PyTorch cannot reflect more pixels than a side has.
    mode = "reflect" if min(rgb.shape[2:]) > after else "replicate"
    padded = F.pad(rgb, (before, after, before, after), mode=mode)

    kernels = rgb.new_zeros(len(view.selection), 3, n, n)
    for kernel, pattern in zip(kernels, view.selection, strict=True):
        channel, row, column = place(pattern, n)
        kernel[channel] = functions[row][:, None] * functions[column]
    return F.conv2d(padded, kernels)


def _fit_codebook(
    channels: Tensor, view: View, config: QuantizationConfig, rng: np.random.Generator
) -> Codebook:
    """``quantization._fit_codebook`` on the device of ``channels``."""
    device = channels.device
    precise = channels.double()
    mean = precise.mean(dim=1).float()
    deviation = precise.std(dim=1, correction=0).float()
    constant = torch.zeros_like(deviation)
    scale = torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), constant)
    scale[COLOUR_CHANNELS:] *= config.pattern_weight

    # Drawn on the CPU: every device gets the same pixels. The few points of the fit pass through
    # main memory, so that every engine takes them.
    pixels = torch.from_numpy(rng.integers(channels.shape[1], size=config.fit_pixels)).to(device)
    points = ((channels[:, pixels] - mean[:, None]) * scale[:, None]).T.contiguous()
    centroids = fit_centroids(
        points.cpu().numpy(),
        config.clusters,
        config.iterations,
        rng,
        config.engine(str(device)),
        str(device),
    )
    return Codebook(
        view=view,
        mean=mean.cpu().numpy(),
        scale=scale.cpu().numpy(),
        centroids=centroids,
    )


def _assign(channels: Tensor, codebook: Codebook) -> Tensor:
    """uint8 (N,), the lowest label wins a tie; the same product as ``quantization.assign``."""
    mean, scale, centroids = (
        torch.from_numpy(np.ascontiguousarray(part)).to(channels.device)
        for part in (codebook.mean, codebook.scale, codebook.centroids)
    )
    weights = -2 * centroids * scale
    offsets = (centroids**2).sum(dim=1) - weights @ mean
    chunks = []
    for part in channels.split(ASSIGN_CHUNK, dim=1):
        scores = torch.addmm(offsets[:, None], weights, part)
        chunks.append(scores.argmin(dim=0).to(torch.uint8))
    return torch.cat(chunks)
