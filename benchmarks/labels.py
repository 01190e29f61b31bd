"""Fig. 8 with numbers: what patterns do to pseudo-labels.   python benchmarks/labels.py ../shared/data/davis2017

For every sequence of a data set in the layout of DAVIS-2017, clips are quantised with colour only
and with colour and patterns, over a grid of the number of patterns, their weight and their highest
sequency, with several seeds. Measured:

- boundary recall: share of the true object boundary with a label edge within 1 pixel; chance: the
  same share for any pixel of the picture, which dense edges raise alone; gain: recall less chance,
  which only well-placed edges raise;
- precision: share of label edges within 1 pixel of a true boundary (low for all: most edges bound
  no annotated object);
- NMI: normalised mutual information of labels and true masks;
- consistency: share of pixels that keep their label along optical flow (DIS, where forward and
  backward agree);
- copy error: share of pixels whose label changes in place from frame to frame, which a network has
  to beat;
- signal: what following the flow gains over copying in place, on the same pixels: what there is to
  learn.

Each figure is a mean over clips and seeds, with the standard deviation over seeds. ``--sheet FILE``
renders frames, colour only and pattern-boosted labels side by side instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from measure import print_table
from PIL import Image
from sklearn.metrics import normalized_mutual_info_score

from corrfractal import quantize_clip
from corrfractal.labels.quantization import QuantizationConfig
from corrfractal.shards.clip import colorize
from corrfractal.video import resize_area
from inference.datasets.davis_files import open_sequence, sequence_names

SIZE, FRAMES, STRIDE = 256, 6, 4
TOLERANCE = 1  # pixel
MEASURES = ("recall", "chance", "gain", "precision", "NMI", "consistency", "copy error", "signal")

GRID: list[tuple[str, dict[str, Any]]] = [
    ("colour only", {"n_patterns": 0}),
    *(
        (f"ab + {n}, weight {w:g}", {"n_patterns": n, "pattern_weight": w, "max_sequency": None})
        for n, w in ((3, 0.5), (6, 0.125), (6, 0.25), (6, 0.5), (6, 1.0), (12, 0.25))
    ),
    *(
        (
            f"ab + {n}, weight {w:g}, sequency <= {s}",
            {"n_patterns": n, "pattern_weight": w, "max_sequency": s},
        )
        for n, w, s in (
            (6, 0.25, 1),
            (6, 0.5, 1),
            (6, 1.0, 1),
            (3, 0.5, 1),
            (6, 0.25, 2),
            (6, 0.5, 2),
        )
    ),
    (
        "ab + 6 of 8 x 8, weight 0.5, sequency <= 2",
        {"basis": 8, "pattern_weight": 0.5, "max_sequency": 2},
    ),
]


@dataclass(frozen=True)
class Annotated:
    """A clip: frames uint8 (T, S, S, 3), true object ids uint8 (T, S, S), flow to the next frame
    and where it holds."""

    name: str
    frames: np.ndarray
    masks: np.ndarray
    flows: list[tuple[np.ndarray, np.ndarray]]


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seeds", default=3, show_default=True)
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="Write a contact sheet (JPEG) instead."
)
def main(data: Path, seeds: int, sheet: Path | None) -> None:
    clips = list(read_clips(data))
    if sheet is not None:
        write_sheet(sheet, clips)
        return
    rows = []
    for name, fields in GRID:
        config = QuantizationConfig(**fields)
        by_seed = [
            [measure(clip, quantize_clip(clip.frames, config, seed)[0]) for clip in clips]
            for seed in range(seeds)
        ]
        means = np.asarray(by_seed).mean(axis=1)
        cells = zip(MEASURES, means.mean(axis=0), means.std(axis=0), strict=True)
        rows.append(
            {"labels": name, **{m: f"{100 * mean:.1f} ± {100 * std:.1f}" for m, mean, std in cells}}
        )
    print_table(
        f"pseudo-labels: {len(clips)} clips of {FRAMES} frames, {seeds} seeds, per cent", rows
    )


def read_clips(data: Path) -> Iterator[Annotated]:
    """Two clips a sequence: its beginning and its middle."""
    for name in sequence_names(data):
        sequence = open_sequence(data, name)
        for start in (0, len(sequence.frames) // 2):
            ts = range(start, min(start + FRAMES * STRIDE, len(sequence.frames)), STRIDE)
            frames = np.stack([resize_area(sequence.frame(t), SIZE, SIZE) for t in ts])
            masks = np.stack(
                [
                    cv2.resize(
                        sequence.annotation(t), (SIZE, SIZE), interpolation=cv2.INTER_NEAREST
                    )
                    for t in ts
                ]
            )
            yield Annotated(name, frames, masks, [flow_between(a, b) for a, b in pairwise(frames)])


def flow_between(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of ``b`` was in ``a``, float32 (S, S, 2); and where both directions agree
    within a pixel."""
    grey = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (a, b)]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    back, forth = dis.calc(grey[1], grey[0], None), dis.calc(grey[0], grey[1], None)
    here = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1).astype(np.float32)
    there = here + back
    returned = there + cv2.remap(forth, there[..., 0], there[..., 1], cv2.INTER_LINEAR)
    inside = ((there >= 0) & (there <= SIZE - 1)).all(axis=-1)
    return there, inside & (np.linalg.norm(returned - here, axis=-1) < 1)


def measure(clip: Annotated, labels: np.ndarray) -> list[float]:
    values = defaultdict(list)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * TOLERANCE + 1,) * 2)
    for label_map, mask in zip(labels, clip.masks, strict=True):
        truth, edges = edges_of(mask), edges_of(label_map)
        if truth.any():
            near = cv2.dilate(edges, disk)
            values["recall"].append((near & truth).sum() / truth.sum())
            values["chance"].append(near.mean())
            values["gain"].append(values["recall"][-1] - values["chance"][-1])
            values["precision"].append(
                (cv2.dilate(truth, disk) & edges).sum() / max(1, edges.sum())
            )
            values["NMI"].append(normalized_mutual_info_score(mask.ravel(), label_map.ravel()))
    for (before, after), (there, holds) in zip(pairwise(labels), clip.flows, strict=True):
        carried = cv2.remap(before, there[..., 0], there[..., 1], cv2.INTER_NEAREST)
        values["consistency"].append((carried == after)[holds].mean())
        values["copy error"].append((before != after).mean())
        values["signal"].append((carried == after)[holds].mean() - (before == after)[holds].mean())
    return [float(np.mean(values[name])) for name in MEASURES]


def edges_of(labels: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or diagonal neighbour, uint8 0/1."""
    edges = np.zeros(labels.shape, dtype=np.uint8)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    return edges


def write_sheet(path: Path, clips: list[Annotated]) -> None:
    """A row for each of three sequences: frame, colour only, the default; at two times."""
    configs: list[Any] = [QuantizationConfig(n_patterns=0), QuantizationConfig()]
    rows = [heading(["frame", "colour only", "colour and patterns"] * 2)]
    for clip in clips[:6:2]:
        views = [
            clip.frames,
            *(colorize(quantize_clip(clip.frames, config, 0)[0]) for config in configs),
        ]
        rows.append(np.concatenate([view[t] for t in (0, 3) for view in views], axis=1))
    Image.fromarray(np.concatenate(rows)).save(path, quality=80)


def heading(texts: list[str]) -> np.ndarray:
    """uint8 (28, SIZE * columns, 3): one title a column."""
    band = np.full((28, SIZE * len(texts), 3), 255, dtype=np.uint8)
    for i, text in enumerate(texts):
        cv2.putText(
            band,
            text,
            (SIZE * i + 6, 20),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.55,
            (40, 40, 40),
            1,
            cv2.LINE_AA,
        )
    return band


if __name__ == "__main__":
    main()
