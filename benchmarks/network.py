"""Steps of the network at the paper's size: time and memory.

    python benchmarks/network.py [--width 64] [--batch 4] [--4k]

- inference at 480 x 854 with five references: embedding a frame, propagation with six densities and
  with one (1/2), and the complete step of each;
- with ``--4k``, the complete step at 2160 x 3840;
- training with the ``full`` preset at 256 x 256: one step forward and backward.

Each row runs once, in a process of its own: seconds of CPU time and peak memory. The last column is
the memory that naive attention would need instead, for unfolded copies of keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import torch
from measure import peak_and_seconds, print_table

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.network.correspondence import References, grid, propagate, pyramid
from corrfractal.network.tracker import TrackerConfig

SD = (480, 854)
UHD = (2160, 3840)
REFERENCES = 5
LABELS = 3
SIX = TrackerConfig().densities
ONE = (2.0,)
# Densities of the two chains in training.
TRAINING = (4.0, 8.0)


@click.command()
@click.option("--width", default=64, show_default=True)
@click.option(
    "--batch", default=4, show_default=True, help="Batch of the training step; 0 skips it."
)
@click.option("--4k", "uhd", is_flag=True, help="Also measure a frame of 2160 x 3840.")
def main(width: int, batch: int, uhd: bool) -> None:
    rows = [
        row("480 x 854, embedding of a frame", prepare_embedding, width, SD),
        row("480 x 854, propagation, six densities", prepare_propagation, width, SD, SIX),
        row("480 x 854, propagation, one density (1/2)", prepare_propagation, width, SD, ONE),
        row("480 x 854, complete step, six densities", prepare_step, width, SD, SIX),
        row("480 x 854, complete step, one density", prepare_step, width, SD, ONE),
    ]
    for row_of_six, row_of_one in ((rows[1], rows[2]), (rows[3], rows[4])):
        row_of_six["x one density"] = row_of_six["s"] / row_of_one["s"]
    for each in rows[1:]:
        each["naive copies GB"] = copies_gb(width, 1, REFERENCES, SD, LABELS, 2.0)
    if batch:
        training = row(
            f"256 x 256, training step, full preset, batch {batch}", prepare_training, width, batch
        )
        # The graph keeps the copies of every affinity: both steps of Chain_L, and both of Chain_R.
        kept = sum(copies_gb(width, batch, REFERENCES + 1, (256, 256), 16, d) for d in TRAINING)
        kept += copies_gb(width, batch, 2 * len(TRAINING), (256, 256), 16, 2.0)
        rows.append({**training, "naive copies GB": kept})
    if uhd:
        step = row("2160 x 3840, complete step, six densities", prepare_step, width, UHD, SIX)
        rows.append({**step, "naive copies GB": copies_gb(width, 1, REFERENCES, UHD, LABELS, 2.0)})
    print_table(f"network of width {width}: {REFERENCES} references", rows)


def row(name: str, prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> dict[str, Any]:
    peak, seconds = peak_and_seconds(prepare, *arguments)
    return {"step": name, "s": seconds, "peak MB": peak}


def network(width: int) -> CorrFractal:
    torch.manual_seed(0)
    return CorrFractal(CorrFractalConfig(width=width, embedding_channels=channels(width)))


def channels(width: int) -> int:
    return 32 if width < 64 else 64


def prepare_embedding(width: int, size: tuple[int, int]) -> Callable[[], Any]:
    model = network(width).eval()
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    return torch.inference_mode()(lambda: model.embed(image))


def prepare_propagation(
    width: int, size: tuple[int, int], densities: tuple[float, ...]
) -> Callable[[], Any]:
    model = network(width).eval()
    F_t = torch.randn(1, channels(width), *size)
    targets = pyramid(F_t, densities)
    references = memory(targets)
    return torch.inference_mode()(
        lambda: propagate(references, targets, F_t, model.config.correspondence)
    )


def prepare_step(
    width: int, size: tuple[int, int], densities: tuple[float, ...]
) -> Callable[[], Any]:
    """A step of the tracker, from frame to labels, with random memory frames."""
    model = network(width).eval()
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    references = memory(
        [torch.empty(1, channels(width), *grid(torch.empty(size), d)) for d in densities]
    )

    def step() -> torch.Tensor:
        F_t = model.embed(image)
        return propagate(
            references, pyramid(F_t, densities), F_t, model.config.correspondence
        ).argmax(dim=1)

    return torch.inference_mode()(step)


def memory(targets: list[torch.Tensor]) -> list[References]:
    return [
        References(
            torch.randn(1, REFERENCES, *f.shape[1:]),
            torch.rand(1, REFERENCES, LABELS, *f.shape[2:]),
        )
        for f in targets
    ]


def prepare_training(width: int, batch: int) -> Callable[[], Any]:
    model = network(width).train()
    frames = torch.randint(0, 256, (batch, REFERENCES + 1, 3, 256, 256), dtype=torch.uint8)
    labels = torch.randint(0, 16, (batch, REFERENCES + 1, 256, 256), dtype=torch.uint8)
    return lambda: model(frames, labels, TRAINING).total.backward()


def copies_gb(
    width: int, batch: int, maps: int, size: tuple[int, int], labels: int, density: float
) -> float:
    """Memory in GB of unfolded keys (C) and values (C + labels) of ``maps`` references.

    float32, windows of 11 x 11.
    """
    h, w = grid(torch.empty(size, device="meta"), density)
    copied_channels = 2 * channels(width) + labels
    return 4 * batch * maps * copied_channels * h * w * 11 * 11 / 1e9


if __name__ == "__main__":
    main()
