"""Another network, trained on CorrFractal's shards through webdataset, in 60 lines of PyTorch.

    python examples/other_training.py SHARDS [STEPS]

A small convolutional network learns correspondence: the labels of a frame are copied from the frame
before, weighted by the similarity of embeddings, and compared with the frame's own pseudo-labels.
Writes ``other_training.png``: the two frames, the labels of the second, and what was predicted.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import corrfractal
from corrfractal.shards.clip import LABEL_COLORS

LABELS = 16
STRIDE = 8  # of the network; a frame of 256 x 256 has 32 x 32 embeddings


class OtherNetwork(nn.Sequential):
    def __init__(self, channels: int = 32) -> None:
        layers: list[nn.Module] = []
        for inputs, stride in ((3, 2), (channels, 2), (channels, 2)):
            layers += [nn.Conv2d(inputs, channels, 3, stride, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(channels, channels, 1))


def predict(network: nn.Module, frames: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Scores (B, K, H, W) of frame 1, from frames (B, 2, H, W, 3) and labels (B, 2, H, W)."""
    images = frames.flatten(0, 1).movedim(-1, 1).float() / 127.5 - 1
    embedded = F.normalize(network(images), dim=1).unflatten(0, (-1, 2)).flatten(3)  # (B, 2, C, N)
    affinity = (embedded[:, 1].mT @ embedded[:, 0] * 20).softmax(dim=-1)  # (B, N, N)
    known = F.one_hot(labels[:, 0].long(), LABELS).movedim(-1, 1).float()
    copied = affinity @ F.avg_pool2d(known, STRIDE).flatten(2).mT  # (B, N, K)
    small = copied.mT.unflatten(2, (frames.shape[2] // STRIDE, -1))
    return F.interpolate(small, scale_factor=STRIDE, mode="bilinear").clamp_min(1e-6).log()


def main(shards: str, steps: int = 60) -> None:
    torch.manual_seed(0)
    clips = corrfractal.shards.open_webdataset(
        shards, views=(0,), frames=(0, 1), shuffle=64, seed=0
    )
    batches = (
        clips.to_tuple("frames", "labels").batched(4, partial=False).repeat().with_epoch(steps)
    )
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    network = OtherNetwork()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step, (frames, labels) in enumerate(loader, start=1):
        frames, labels = torch.as_tensor(np.stack(frames)), torch.as_tensor(np.stack(labels))[:, 0]
        scores = predict(network, frames, labels)
        loss = F.nll_loss(scores.log_softmax(1), labels[:, 1].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (1, steps) or step % 10 == 0:
            error = (scores.argmax(1) != labels[:, 1]).float().mean()
            print(f"step {step}: loss {loss.item():.3f}, error {error.item():.1%}")
    colors = np.asarray(LABEL_COLORS, np.uint8)
    tiles = [frames[0, 0], frames[0, 1], colors[labels[0, 1]], colors[scores[0].argmax(0)]]
    Image.fromarray(np.hstack([np.asarray(tile) for tile in tiles])).save("other_training.png")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
