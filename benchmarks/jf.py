"""J and F compared with the usual loop.

    python benchmarks/jf.py DAVIS MASKS

DAVIS is a folder in the layout of DAVIS-2017. MASKS is a folder of SEQUENCE/00000.png, for example
the masks of a published method.

Baseline: the usual way to compute them, frame by frame and object by object on the full picture,
with boundaries as ``seg2bmap`` finds them, a new disk each time, and ``cv2.dilate``. Both read the
same masks from memory, and their results must agree. Longer sequences are cut to 80 scored frames.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from measure import cpu_seconds, print_table

from inference.datasets.davis_files import open_sequence, sequence_names
from inference.metrics.jf import score_sequence
from inference.prompts.mask_images import read_mask

U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Pairs = Sequence[tuple[U8, U8]]

FRAMES = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("davis", type=Path)
    parser.add_argument("masks", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = [
        measure(arguments.davis, name, arguments.masks / name)
        for name in sequence_names(arguments.davis)
    ]
    ours = sum(float(row["ours s"]) for row in rows)
    usual = sum(float(row["usual loop s"]) for row in rows)
    total = {"sequence": "all", "frames": sum(int(row["frames"]) for row in rows)}
    rows.append({**total, "ours s": ours, "usual loop s": usual, "ours / usual": ours / usual})
    print_table("j and f: ours compared with the usual loop", rows)


def measure(davis: Path, name: str, masks: Path) -> dict[str, Any]:
    sequence = open_sequence(davis, name)
    frames = range(1, min(len(sequence.frames) - 1, FRAMES + 1))
    pairs = [
        (sequence.annotation(t), read_mask(masks / f"{sequence.frames[t].stem}.png"))
        for t in frames
    ]
    objects = sequence.objects()
    scores = score_sequence(name, objects, pairs)
    expected = usual_loop(objects, pairs)
    for score, (js, fs) in zip(scores, expected, strict=True):
        assert np.allclose(score.j_frames, js, atol=1e-12), "both must agree"
        assert np.allclose(score.f_frames, fs, atol=1e-12), "both must agree"
    ours = cpu_seconds(lambda: score_sequence(name, objects, pairs))
    usual = cpu_seconds(lambda: usual_loop(objects, pairs))
    return {
        "sequence": name,
        "frames": len(pairs),
        "objects": len(objects),
        "ours s": ours,
        "usual loop s": usual,
        "ours / usual": ours / usual,
    }


def usual_loop(objects: Sequence[int], pairs: Pairs) -> list[tuple[list[float], list[float]]]:
    scores = []
    for i in objects:
        js = []
        fs = []
        for truth, mask in pairs:
            js.append(usual_j(truth == i, mask == i))
            fs.append(usual_f(truth == i, mask == i))
        scores.append((js, fs))
    return scores


def usual_j(truth: Bool, mask: Bool) -> float:
    union = np.sum(truth | mask)
    return float(np.sum(truth & mask) / union) if union else 1.0


def usual_f(truth: Bool, mask: Bool) -> float:
    radius = math.ceil(0.008 * np.linalg.norm(truth.shape))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.uint8)
    b_truth = usual_boundary(truth)
    b_mask = usual_boundary(mask)
    near_truth = cv2.dilate(b_truth.astype(np.uint8), disk)
    near_mask = cv2.dilate(b_mask.astype(np.uint8), disk)
    n_truth = np.sum(b_truth)
    n_mask = np.sum(b_mask)
    if n_truth == 0 or n_mask == 0:
        return float(n_truth == n_mask)
    precision = np.sum(b_mask * near_truth) / n_mask
    recall = np.sum(b_truth * near_mask) / n_truth
    if precision + recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


def usual_boundary(mask: Bool) -> Bool:
    right = np.zeros_like(mask)
    lower = np.zeros_like(mask)
    diagonal = np.zeros_like(mask)
    right[:, :-1] = mask[:, 1:]
    lower[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    boundary = (mask ^ right) | (mask ^ lower) | (mask ^ diagonal)
    boundary[-1] = mask[-1] ^ right[-1]
    boundary[:, -1] = mask[:, -1] ^ lower[:, -1]
    boundary[-1, -1] = False
    return boundary


if __name__ == "__main__":
    main()
