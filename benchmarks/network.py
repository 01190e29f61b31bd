"""Whole steps of the network at the paper's size:  python benchmarks/network.py [--width 64]

- inference at 480 x 854 with five references: the embedding, six densities, one density (1/2), seconds of one core
and peak
  memory; the same on naive attention, or the bytes that its copies would take where they do not fit;
- training, ``full`` preset, 256 x 256: one step, seconds and peak memory, and what naive attention's copies would take.

Every row runs in a process of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from measure import peak_mb, print_table

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.correspondence import References, grid, propagate, pyramid
from corrfractal.tracker import TrackerConfig

H, W, REFERENCES, LABELS = 480, 854, 5, 3
SIX = TrackerConfig().densities


@click.command()
@click.option("--width", default=64, show_default=True)
@click.option("--batch", default=4, show_default=True, help="Of the training step; 0 leaves it out.")
def main(width: int, batch: int) -> None:
    rows = [row("embedding of a frame", prepare_embedding, width)]
    rows += [
        row(name, prepare_propagation, width, d) for name, d in (("six densities", SIX), ("one density, 1/2", (2.0,)))
    ]
    rows[1]["x one density"] = rows[1]["s"] / rows[2]["s"]
    for i, densities in ((1, SIX), (2, (2.0,))):
        rows[i]["naive copies GB"] = max(copies_gb(width, d) for d in densities)
    if batch:
        rows.append(row(f"training step, full, batch {batch}", prepare_training, width, batch))
    print_table(f"network: width {width}, {H} x {W}, {REFERENCES} references", rows, Path(__file__).parent / "out")


def row(name: str, prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> dict[str, Any]:
    return {"step": name, "s": seconds(prepare(*arguments)), "peak MB": peak_mb(prepare, *arguments)}


def seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def network(width: int) -> CorrFractal:
    torch.manual_seed(0)
    return CorrFractal(CorrFractalConfig(width=width, embedding_channels=32 if width < 64 else 64))


def prepare_embedding(width: int) -> Callable[[], Any]:
    model, image = network(width).eval(), torch.randint(0, 256, (1, 3, H, W), dtype=torch.uint8)
    return torch.inference_mode()(lambda: model.embed(image))


def prepare_propagation(width: int, densities: tuple[float, ...]) -> Callable[[], Any]:
    model = network(width).eval()
    C = model.config.embedding_channels
    F_t = torch.randn(1, C, H, W)
    targets = pyramid(F_t, densities)
    references = [
        References(torch.randn(1, REFERENCES, *f.shape[1:]), torch.rand(1, REFERENCES, LABELS, *f.shape[2:]))
        for f in targets
    ]
    return torch.inference_mode()(lambda: propagate(references, targets, F_t, model.config.correspondence))


def prepare_training(width: int, batch: int) -> Callable[[], Any]:
    model = network(width).train()
    frames = torch.randint(0, 256, (batch, REFERENCES + 1, 3, 256, 256), dtype=torch.uint8)
    labels = torch.randint(0, 16, (batch, REFERENCES + 1, 256, 256), dtype=torch.uint8)
    return lambda: model(frames, labels, (4.0, 8.0)).total.backward()


def copies_gb(width: int, density: float) -> float:
    """What unfolding keys and values of Chain_L takes, for all references."""
    h, w = grid(torch.empty(H, W, device="meta"), density)
    channels = (32 if width < 64 else 64) * 2 + LABELS
    return 4 * REFERENCES * channels * h * w * math.prod((11, 11)) / 1e9


if __name__ == "__main__":
    main()
