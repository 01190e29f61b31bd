"""Engines of k-means beside faiss on the CPU: agreement of the labels, and inertia, on real clips.

    python benchmarks/kmeans.py DAVIS [--seeds 3]

DAVIS is a folder in the layout of DAVIS-2017; of each sequence the first eight frames are labelled.
Labels are compared after the permutation under which most are equal: the order of clusters means
nothing. ``another seed`` is faiss with other first centroids, the difference that the start alone
makes. Inertia is the sum of squared distances to the own centroid, over that of faiss.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from measure import print_table
from scipy.optimize import linear_sum_assignment

from corrfractal.labels.kmeans import Engine, fit_centroids, has_faiss_gpu
from corrfractal.labels.quantization import QuantizationConfig, assign, clip_channels, quantize_clip
from corrfractal.video import resize_area
from inference.datasets.davis_files import open_sequence, sequence_names

FRAMES = 8
SIZE = 256
F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seeds", default=3, show_default=True)
@click.option("--clips", default=10, show_default=True, help="Sequences at most.")
def main(data: Path, seeds: int, clips: int) -> None:
    engines: dict[str, tuple[Engine, int]] = {
        "another seed": ("faiss", 1000),
        "torch": ("torch", 0),
    }
    if has_faiss_gpu():
        engines["faiss-gpu"] = ("faiss-gpu", 0)
    values: dict[str, list[tuple[float, float]]] = defaultdict(list)
    names = sequence_names(data)[:clips]
    for name in names:
        sequence = open_sequence(data, name)
        frames = np.stack([resize_area(sequence.frame(t), SIZE, SIZE) for t in range(FRAMES)])
        for seed in range(seeds):
            for title, result in compare(frames, seed, engines).items():
                values[title].append(result)
    rows: list[dict[str, Any]] = []
    for title, results in values.items():
        agreement, inertia = np.mean(results, axis=0)
        rows.append({"engine": title, "equal labels": agreement, "inertia, x faiss": inertia})
    print_table(f"k-means: {len(names)} clips of {FRAMES} frames, {seeds} seeds", rows)


def compare(
    frames: U8, seed: int, engines: dict[str, tuple[Engine, int]]
) -> dict[str, tuple[float, float]]:
    """Agreement and relative inertia of each engine on one clip, from the points that the pipeline
    fits on."""
    config = QuantizationConfig()
    _, book = quantize_clip(frames, replace(config, kmeans="faiss"), seed)
    points = (clip_channels(frames, book.view) - book.mean[:, None]) * book.scale[:, None]
    sample = points[:, np.random.default_rng(seed).integers(points.shape[1], size=4096)].T
    sample = np.ascontiguousarray(sample, dtype=np.float32)

    def fit(engine: Engine, offset: int) -> tuple[U8, float]:
        rng = np.random.default_rng(seed + offset)
        centroids = fit_centroids(sample, config.clusters, config.iterations, rng, engine)
        zero = np.zeros(len(points), np.float32)
        labels = assign(points, zero, zero + 1, centroids)
        return labels, float(np.square(points.T - centroids[labels]).sum())

    expected, best = fit("faiss", 0)
    results = {}
    for title, (engine, offset) in engines.items():
        labels, inertia = fit(engine, offset)
        results[title] = (equal_labels(labels, expected, config.clusters), inertia / best)
    return results


def equal_labels(a: U8, b: U8, clusters: int) -> float:
    """Share of equal labels, after the permutation that makes most of them equal."""
    counts = np.zeros((clusters, clusters), np.int64)
    np.add.at(counts, (a, b), 1)
    rows, columns = linear_sum_assignment(-counts)
    return float(counts[rows, columns].sum() / len(a))


if __name__ == "__main__":
    main()
