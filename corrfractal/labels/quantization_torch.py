"""``quantize_clip`` as tensor operations on one device: the same views, pixels and standardisation,
so nearly the same labels; k-means starts from other points than faiss does. One path for CUDA and
CPU, where it is slower than the compiled one and serves to try it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .color import rgb_to_lab
from .hadamard import place, walsh_basis
from .quantization import Codebook, QuantizationConfig, View

U8 = npt.NDArray[np.uint8]

LUMA = (0.299, 0.587, 0.114)  # Rec. 601
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
    """uint8 (T, H, W, 3) -> float32 (D, T * H * W); the responses are exact, being sums of small integers."""
    rgb = frames.movedim(3, 1).float()
    colour = rgb_to_lab(rgb / 255)[:, [1 + axis for axis in view.colour]]
    if view.luminance:
        weights = rgb.new_tensor(LUMA)[:, None, None]
        rgb = (rgb * weights).sum(dim=1, keepdim=True).round().expand_as(rgb)
    channels = torch.cat((colour, _responses(rgb, view)), dim=1) if view.selection else colour
    return channels.movedim(1, 0).reshape(channels.shape[1], -1)


def _responses(rgb: Tensor, view: View) -> Tensor:
    """float32 (T, patterns, H, W) from (T, 3, H, W): one convolution per colour channel."""
    n, functions = view.basis, torch.from_numpy(walsh_basis(view.basis)).to(rgb)
    before, after = n // 2 - 1, n // 2
    padded = F.pad(
        rgb,
        (before, after, before, after),
        mode="reflect" if min(rgb.shape[2:]) > after else "replicate",
    )
    kernels = rgb.new_zeros(len(view.selection), 3, n, n)
    for kernel, pattern in zip(kernels, view.selection, strict=True):
        channel, row, column = place(pattern, n)
        kernel[channel] = functions[row][:, None] * functions[column]
    return F.conv2d(padded, kernels)


def _fit_codebook(
    channels: Tensor, view: View, config: QuantizationConfig, rng: np.random.Generator
) -> Codebook:
    moments = torch.stack(
        (channels.double().mean(dim=1), channels.double().std(dim=1, correction=0))
    ).float()
    mean, deviation = moments
    scale = torch.where(
        deviation > 1e-6, 1 / deviation.clamp(min=1e-6), torch.zeros_like(deviation)
    )
    scale[len(view.colour) :] *= config.pattern_weight
    pixels = torch.from_numpy(rng.integers(channels.shape[1], size=config.fit_pixels)).to(
        channels.device
    )
    points = ((channels[:, pixels] - mean[:, None]) * scale[:, None]).T
    first = torch.from_numpy(rng.choice(len(points), config.clusters, replace=False)).to(
        channels.device
    )
    centroids = kmeans(points, points[first], config.iterations)
    return Codebook(
        view=view,
        mean=mean.cpu().numpy(),
        scale=scale.cpu().numpy(),
        centroids=centroids.float().cpu().numpy(),
    )


def kmeans(points: Tensor, centroids: Tensor, iterations: int) -> Tensor:
    """Lloyd's iterations from given centroids, (N, D) and (K, D) -> (K, D).

    Sums are matrix products, not scattered additions: the same on every run of a device. A cluster
    that nobody is nearest to moves to the point that lies farthest from its own centroid.
    """
    for _ in range(iterations):
        distances, nearest = torch.cdist(points, centroids).min(dim=1)
        members = F.one_hot(nearest, len(centroids)).to(points)
        counts = members.sum(dim=0)
        sums = members.T @ points
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)
        empty = (counts == 0).nonzero()[:, 0]
        centroids[empty] = points[distances.topk(len(empty)).indices]
    return centroids


def _assign(channels: Tensor, codebook: Codebook) -> Tensor:
    """uint8 (N,), the lowest label wins a tie; the product of ``quantization.assign``."""
    mean, scale, centroids = (
        torch.from_numpy(np.ascontiguousarray(part)).to(channels.device)
        for part in (codebook.mean, codebook.scale, codebook.centroids)
    )
    weights = -2 * centroids * scale
    offsets = (centroids**2).sum(dim=1) - weights @ mean
    parts = channels.split(ASSIGN_CHUNK, dim=1)
    return torch.cat(
        [
            torch.addmm(offsets[:, None], weights, part).argmin(dim=0).to(torch.uint8)
            for part in parts
        ]
    )
