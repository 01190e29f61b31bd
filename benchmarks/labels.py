"""Effect of patterns on pseudo-labels: Fig. 8 of the paper in numbers.

    python benchmarks/labels.py ../shared/data/davis2017

Clips of each sequence of a data set in the layout of DAVIS-2017 are quantised with colour only and
with colour and patterns, over a grid of the number of patterns, their weight and their highest
sequency, with several seeds. Measures:

- recall: share of the true object boundary with a label edge within 1 pixel. chance: the same
  share for any pixel of the picture, which dense edges increase as well. gain: recall - chance,
  which only well-placed edges increase;
- precision: share of label edges within 1 pixel of a true boundary; low for all, because most edges
  bound no annotated object;
- NMI: normalised mutual information of labels and true masks;
- consistency: share of pixels that keep their label along the optical flow (DIS, where forward and
  backward flow agree);
- copy error: share of pixels whose label changes in place between frames, which a network must
  beat;
- signal: gain of following the flow over copying in place, on the same pixels: what can be learnt.

Each value is a mean over clips and seeds, with the standard deviation over seeds. ``--sheet FILE``
instead renders frames, colour-only labels and pattern-boosted labels side by side.
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

SIZE = 256
FRAMES = 6
STRIDE = 4
# Pixels.
TOLERANCE = 1
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
class AnnotatedClip:
    """Frames of a sequence with their true masks and optical flow."""

    name: str
    frames: np.ndarray
    """uint8 (T, S, S, 3)"""
    masks: np.ndarray
    """Object ids, uint8 (T, S, S)."""
    flows: list[tuple[np.ndarray, np.ndarray]]
    """From each frame to the next, as ``flow_between`` returns it."""


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
            {"labels": name}
            | {title: f"{100 * mean:.1f} ± {100 * std:.1f}" for title, mean, std in cells}
        )
    print_table(
        f"pseudo-labels: {len(clips)} clips of {FRAMES} frames, {seeds} seeds, per cent", rows
    )


def read_clips(data: Path) -> Iterator[AnnotatedClip]:
    """Yield two clips of each sequence: from its start and from its middle."""
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
            yield AnnotatedClip(
                name, frames, masks, [flow_between(a, b) for a, b in pairwise(frames)]
            )


def flow_between(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optical flow from ``b`` back to ``a``.

    Returns:
        Position in ``a`` of each pixel of ``b``, float32 (S, S, 2) of (x, y); and whether forward
        and backward flow agree within a pixel, bool (S, S).
    """
    grey = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (a, b)]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    backward = dis.calc(grey[1], grey[0], None)
    forward = dis.calc(grey[0], grey[1], None)
    pixels = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1).astype(np.float32)
    origins = pixels + backward
    returned = origins + cv2.remap(forward, origins[..., 0], origins[..., 1], cv2.INTER_LINEAR)
    inside = ((origins >= 0) & (origins <= SIZE - 1)).all(axis=-1)
    return origins, inside & (np.linalg.norm(returned - pixels, axis=-1) < 1)


def measure(clip: AnnotatedClip, labels: np.ndarray) -> list[float]:
    """The values of ``MEASURES`` for labels uint8 (T, S, S) of a clip."""
    values = defaultdict(list)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * TOLERANCE + 1,) * 2)
    for label_map, mask in zip(labels, clip.masks, strict=True):
        truth = edges_of(mask)
        edges = edges_of(label_map)
        if truth.any():
            near = cv2.dilate(edges, disk)
            values["recall"].append((near & truth).sum() / truth.sum())
            values["chance"].append(near.mean())
            values["gain"].append(values["recall"][-1] - values["chance"][-1])
            values["precision"].append(
                (cv2.dilate(truth, disk) & edges).sum() / max(1, edges.sum())
            )
            values["NMI"].append(normalized_mutual_info_score(mask.ravel(), label_map.ravel()))
    for (before, after), (origins, agrees) in zip(pairwise(labels), clip.flows, strict=True):
        warped = cv2.remap(before, origins[..., 0], origins[..., 1], cv2.INTER_NEAREST)
        consistency = (warped == after)[agrees].mean()
        values["consistency"].append(consistency)
        values["copy error"].append((before != after).mean())
        values["signal"].append(consistency - (before == after)[agrees].mean())
    return [float(np.mean(values[name])) for name in MEASURES]


def edges_of(labels: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or diagonal neighbour, uint8 0/1."""
    edges = np.zeros(labels.shape, dtype=np.uint8)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    return edges


def write_sheet(path: Path, clips: list[AnnotatedClip]) -> None:
    """Write a picture with one row per clip: frame, colour only and the default, at two times."""
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
    """A title above each column, uint8 (28, SIZE * columns, 3)."""
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
