"""How well the pipeline distinguishes shot cuts from motion.

    python benchmarks/cuts.py DATA

DATA contains the folders train_videos and videos. Joins: the samples of each video of
train_videos are followed by those of each other one, which must be detected as a cut. False
alarms: cuts detected within these videos, each of which is a single shot. Cuts in the other
folder are printed with their times, for inspection.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import click
import numpy as np
from measure import print_table

from corrfractal.video import open_video, resize_area
from pipeline.config import PipelineConfig
from pipeline.sample.clips import sampled_frames
from pipeline.sample.cuts import CutDetector

CONFIG = PipelineConfig()
# Samples of a video before and after a join.
AROUND = 8


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(data: Path) -> None:
    """Measure detected joins and false alarms."""
    single = {path.name: samples(path) for path in sorted((data / "train_videos").iterdir())}
    pairs = list(itertools.permutations(single.values(), 2))
    rows = []
    for threshold in (0.6, 0.8, 1.0, 1.2, 1.5):
        found = sum(
            bool(cuts([*a[-AROUND:], *b[:AROUND]], threshold, only=min(AROUND, len(a))))
            for a, b in pairs
        )
        false = [len(cuts(images, threshold)) for images in single.values()]
        rows.append(
            {
                "threshold": threshold,
                "joins": len(pairs),
                "found %": 100 * found / len(pairs),
                "single shots": len(single),
                "samples": sum(map(len, single.values())),
                "false alarms": sum(false),
            }
        )
    print_table("shot cuts: joins of real videos, and videos of a single shot", rows)
    for path in sorted((data / "videos").iterdir()):
        images = samples(path)
        detected = cuts(images, CONFIG.clip.cut_threshold)
        if detected:
            seconds = [round(t / CONFIG.clip.fps, 1) for t in detected]
            print(f"{path.name}: {len(images)} samples, cuts at {seconds} s")


def samples(path: Path) -> list[np.ndarray]:
    """The frames that the pipeline would sample."""
    video = open_video(path)
    frames = video.frames(sampled_frames(video.times(), CONFIG.clip.fps).tolist())
    return [resize_area(frame.image, CONFIG.size, CONFIG.size) for frame in frames]


def cuts(images: list[np.ndarray], threshold: float, only: int | None = None) -> list[int]:
    """Indices of the samples that start a shot; with ``only``, that index or none."""
    detector = CutDetector(threshold)
    found = [t for t, image in enumerate(images) if detector.starts_shot(image)]
    return [t for t in found if only is None or t == only]


if __name__ == "__main__":
    main()
