"""Shared by the studies: a reduced data set, and the scores of a network on it."""

from __future__ import annotations

from pathlib import Path

import cv2

from corrfractal.network.tracker import TrackerConfig
from inference.benchmarks.davis import Davis
from inference.config import InferenceConfig
from inference.datasets.davis_files import open_sequence, sequence_names
from inference.prompts.mask_images import write_mask
from inference.protocols import Model


def small_set(davis: Path, out: Path, frames: int, stride: int = 1, shrink: int = 1) -> Path:
    """Write a reduced copy of a data set in the layout of DAVIS-2017, unless ``out`` has one.

    Args:
        frames: maximum number of frames of each sequence.
        stride: keep every ``stride``-th frame.
        shrink: divisor of height and width.
    """
    listing = out / "ImageSets" / "2017" / "val.txt"
    if listing.exists():
        return out
    for name in sequence_names(davis):
        sequence = open_sequence(davis, name)
        for kind in ("JPEGImages", "Annotations"):
            (out / kind / "480p" / name).mkdir(parents=True, exist_ok=True)
        for number, t in enumerate(range(0, len(sequence.frames), stride)[:frames]):
            frame = sequence.frame(t)
            mask = sequence.annotation(t)
            size = (frame.shape[1] // shrink, frame.shape[0] // shrink)
            image = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(out / f"JPEGImages/480p/{name}/{number:05d}.jpg"), image[..., ::-1])
            small = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
            write_mask(out / f"Annotations/480p/{name}/{number:05d}.png", small)
    # Written last: it marks the set as complete.
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("\n".join(sequence_names(davis)) + "\n")
    return out


def scores(model: Model, davis: Path, tracker: TrackerConfig | None = None) -> dict[str, float]:
    """Mean J&F, J and F over all objects, and J&F of each object, in per cent."""
    config = InferenceConfig(tracker=tracker or TrackerConfig())
    summary = Davis(davis).evaluate_in_memory(model, config)
    by_object = {each.name: 50 * (each.J.mean + each.F.mean) for each in summary.objects}
    print({name: round(value, 1) for name, value in by_object.items()}, flush=True)
    return {
        "J&F": 100 * summary.JF,
        "J": 100 * summary.mean("J"),
        "F": 100 * summary.mean("F"),
        **by_object,
    }
