"""Flipped bits: how much visible damage is detected, and how often intact videos are rejected.

    python benchmarks/faults/damage.py GOOD_VIDEO_FOLDER... [--files 30] [--seed 0]

False alarms are counted over all files of the folders. Then random bits of some of them are
flipped, between 10 and 95 % of the file. A clip is *damaged* if one of its stored frames has less
than 30 dB PSNR to the intact file's frame, or another time. *Caught* files are quarantined;
*leaked* clips are damaged but stored.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

from corrfractal.common.errors import VideoError
from corrfractal.video import open_video
from pipeline.config import PipelineConfig
from pipeline.sample.decode import RawClip, decode_clips

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import print_table

CONFIG = PipelineConfig()
# PSNR in dB below which a frame counts as damaged.
DAMAGED_PSNR = 30.0


def read(path: Path) -> tuple[list[RawClip], bool]:
    """The clips that the pipeline would store, and whether it would quarantine the file."""
    clips: list[RawClip] = []
    for decoder in ("auto", "pyav"):
        clips = []
        try:
            video = open_video(path, decoder)
            clips.extend(decode_clips(video, CONFIG))
        except VideoError:
            continue
        return clips, False
    return clips, True


def is_damaged(clip: RawClip, sound: dict[float, np.ndarray]) -> bool:
    """Whether a stored frame differs from the intact file's frame at the same time.

    Args:
        sound: frames of the intact file by their times in seconds.
    """
    for seconds, frame in zip(clip.seconds, clip.frames, strict=True):
        if seconds not in sound:
            return True
        error = float(np.mean((frame.astype(np.float32) - sound[seconds]) ** 2))
        if error > 255**2 / 10 ** (DAMAGED_PSNR / 10):
            return True
    return False


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--files", default=30, show_default=True, help="Number of files in which bits are flipped."
)
@click.option("--seed", default=0, show_default=True)
def main(folders: tuple[Path, ...], files: int, seed: int) -> None:
    """Count detected and undetected damage, and false alarms."""
    good = [path for folder in folders for path in sorted(folder.iterdir())]
    sound = {path: read(path) for path in good}
    rejected = [path.name for path, (_, bad) in sound.items() if bad]
    rng = random.Random(seed)
    chosen = rng.sample([path for path in good if sound[path][0]], files)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for bits in (1, 4, 16, 64):
            harmed = 0
            caught = 0
            leaked = 0
            stored = 0
            for path in chosen:
                data = bytearray(path.read_bytes())
                for _ in range(bits):
                    position = rng.randrange(len(data) // 10, len(data) * 19 // 20)
                    data[position] ^= 1 << rng.randrange(8)
                flipped = Path(scratch) / f"flipped{path.suffix}"
                flipped.write_bytes(data)
                clips, bad = read(flipped)
                frames: dict[float, np.ndarray] = {}
                for clip in sound[path][0]:
                    frames.update(zip(clip.seconds, clip.frames, strict=True))
                wrong = sum(is_damaged(clip, frames) for clip in clips)
                harmed += bad or wrong > 0
                caught += bad
                leaked += wrong
                stored += len(clips)
            rows.append(
                {
                    "bits": bits,
                    "files": files,
                    "harmed": harmed,
                    "caught": caught,
                    "clips": stored,
                    "leaked": leaked,
                }
            )
    false_alarms = f"{len(rejected)} of {len(good)} intact files rejected"
    print_table(f"flipped bits: {false_alarms}", rows)
    print("\n".join(rejected))


if __name__ == "__main__":
    main()
