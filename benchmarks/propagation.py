"""Where the time of a propagated frame goes:  python benchmarks/propagation.py [--data DAVIS] [--model FILE] [--4k]

- parts of a step at 480 x 854, width 16, five memory frames, three labels: backbone, pyramid,
  affinities with six densities and with one, up-sampling and decision, and beside them what
  surrounds the tracker: decoding the frame, blending, writing the mask;
- the whole step with six densities, one, three (``FAST``), half resolution and bf16: seconds, peak
  memory, ratio to one density, and what naive attention would unfold in its place. Rivals take
  turns in one process, the median counts;
- with ``--naive``, a step with three densities by our attention and by the usual unfolding;
- with ``--data``, J&F of ``FAST`` and of its half-resolution and bf16 forms on three sequences of
  DAVIS-2017;
- with ``--4k``, one frame of 2160 x 3840 at widths 16 and 64 with its peak memory.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch
from attention import naive_restricted_attention
from measure import peak_and_seconds, print_table
from network import REFERENCES, SD, UHD, channels, copies_gb

import corrfractal.network.attention
from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.network.correspondence import pyramid, refine
from corrfractal.network.tracker import FAST, Tracker, TrackerConfig
from corrfractal.video import open_video, write_video
from inference.benchmarks.davis import Davis
from inference.config import InferenceConfig
from inference.datasets.davis_files import open_sequence
from inference.load import ModelSource, open_model, resolve_model
from inference.prompts.mask_images import blend, write_mask

SIX = TrackerConfig()
FORMS = {
    "six densities": SIX,
    "one density (1/2)": replace(SIX, densities=(2.0,)),
    "three densities (--fast)": FAST,
    "six at half resolution": replace(SIX, resolution="half"),
    "six in bf16": replace(SIX, precision="bf16"),
    "three at half resolution": replace(FAST, resolution="half"),
}
SCORED = ("six densities", "three densities (--fast)", "three at half resolution", "three in bf16")
SEQUENCES = ("drift-straight", "libby", "car-shadow")
FRAME = 11  # asks for the memory frames 0, 5, 6, 8, 10


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="DAVIS-2017.")
@click.option("--model", default="baseline:untrained", show_default=True)
@click.option("--scored", default=",".join(SCORED), help="Forms to score, by name.")
@click.option("--frames", default=25, show_default=True, help="Frames of each scored sequence.")
@click.option(
    "--forms",
    default=",".join(FORMS),
    help="Forms to time, by name; bf16 is emulated by some processors.",
)
@click.option("--rounds", default=3, show_default=True, help="Turns that each form and part takes.")
@click.option("--4k", "uhd", is_flag=True)
@click.option("--naive", is_flag=True)
def main(
    data: Path | None,
    model: str,
    scored: str,
    frames: int,
    forms: str,
    rounds: int,
    uhd: bool,
    naive: bool,
) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if rounds:
        print_table("inference: a frame of 480 x 854, width 16", steps(forms.split(","), rounds))
        print_table("inference parts: a frame of 480 x 854, width 16", parts(rounds))
    if uhd:
        peaks = [(width, *peak_and_seconds(prepare, UHD, SIX, width)) for width in (16, 64)]
        rows = [{"width": width, "s": seconds, "peak MB": peak} for width, peak, seconds in peaks]
        print_table(
            "inference 4k: a frame of 2160 x 3840, embedded at 1080 x 1920, six densities", rows
        )
    if naive:
        print_table(
            "inference beside naive attention: 480 x 854, width 16, three densities", beside_naive()
        )
    if data is not None:
        source = resolve_model(model)
        rows = [score(name, source, data, frames) for name in scored.split(",")]
        print_table(
            f"inference scores: {source.name}, {', '.join(SEQUENCES)}, {frames} frames", rows
        )


def network(width: int = 16) -> CorrFractal:
    torch.manual_seed(0)
    return CorrFractal(CorrFractalConfig(width=width, embedding_channels=channels(width))).eval()


def scene(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A frame of noise and a mask of two objects."""
    rng = np.random.default_rng(0)
    mask = np.zeros(size, dtype=np.uint8)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1
    mask[size[0] // 2 : -9, size[1] // 2 : -9] = 2
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8), mask


def warm(
    size: tuple[int, int], config: TrackerConfig, width: int = 16
) -> tuple[Tracker, np.ndarray]:
    """A tracker that is about to step to ``FRAME``."""
    frame, mask = scene(size)
    tracker = network(width).tracker(frame, mask, config)
    rewind(tracker)
    return tracker, frame


def rewind(tracker: Tracker) -> None:
    """Five memory frames, all the same one: what they show does not change what they cost."""
    tracker._memory = dict.fromkeys(range(FRAME), tracker._memory[0])
    tracker._t = FRAME - 1


def prepare(size: tuple[int, int], config: TrackerConfig, width: int = 16) -> Callable[[], Any]:
    torch.set_num_threads(1)
    tracker, frame = warm(size, config, width)
    return lambda: tracker.step(frame)


def steps(names: list[str], rounds: int) -> list[dict[str, Any]]:
    """The forms in turns, and the peak of each in a process of its own."""
    trackers = {name: warm(SD, FORMS[name]) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, (tracker, frame) in trackers.items():
            rewind(tracker)
            started = time.process_time()
            tracker.step(frame)
            seconds[name].append(time.process_time() - started)
    one = statistics.median(seconds["one density (1/2)"])
    return [
        {
            "form": name,
            "s": statistics.median(seconds[name]),
            "x one density": statistics.median(seconds[name]) / one,
            "peak MB": peak_and_seconds(prepare, SD, FORMS[name])[0],
            "naive copies GB": copies_gb(16, 1, REFERENCES, SD, 3, FORMS[name].densities[-1]),
        }
        for name in names
    ]


def beside_naive() -> list[dict[str, Any]]:
    forms = {"ours": peak_and_seconds(prepare, SD, FAST), "naive": peak_and_seconds(prepare_naive)}
    peak, seconds = forms["ours"]
    return [
        {
            "attention": name,
            "s": s,
            "peak MB": mb,
            "x our time": s / seconds,
            "x our peak": mb / peak,
        }
        for name, (mb, s) in forms.items()
    ]


def prepare_naive() -> Callable[[], Any]:
    corrfractal.network.attention.restricted_attention = naive_restricted_attention
    return prepare(SD, FAST)


def parts(rounds: int) -> list[dict[str, Any]]:
    """Seconds of CPU time of each part, and its share of a frame with six densities."""
    tracker, frame = warm(SD, SIX)
    tracker.step(frame)
    rewind(tracker)
    one, _ = warm(SD, FORMS["one density (1/2)"])
    F_t = tracker._embed(frame)
    mask, images = scene(SD)[1], [frame] * 12
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        write_video(film, images, 24)
        work: dict[str, Callable[[], Any]] = {
            "decode the frame (h264)": lambda: [None for _ in open_video(film).frames()],
            "backbone": lambda: tracker._embed(frame),
            "pyramid (resize)": lambda: pyramid(F_t, tracker._densities),
            "affinities, six densities": lambda: affinities(tracker, F_t),
            "affinities, one density": lambda: affinities(one, F_t),
            "up-sample and decide": tracker._decide,
            "blend the overlay": lambda: blend(frame, mask),
            "write the mask": lambda: write_mask(Path(folder) / "mask.png", mask),
        }
        rows: list[dict[str, Any]] = []
        with torch.inference_mode():
            for name, do in work.items():
                times = []
                for _ in range(rounds):
                    started = time.process_time()
                    do()
                    times.append(time.process_time() - started)
                rows.append(
                    {"part": name, "s": statistics.median(times) / (12 if "decode" in name else 1)}
                )
    total = sum(row["s"] for row in rows if "one density" not in row["part"])
    return [
        {**row, "share %": 100 * row["s"] / total if "one density" not in row["part"] else ""}
        for row in rows
    ]


def affinities(tracker: Tracker, F_t: torch.Tensor) -> Any:
    targets = pyramid(F_t, tracker._densities)
    return refine(tracker._references(tracker._groups()[0]), targets, F_t, tracker._correspondence)


def score(name: str, source: ModelSource, data: Path, frames: int) -> dict[str, Any]:
    """Mean J&F of the first frames of the sequences; CPU seconds a frame."""
    forms: dict[str, TrackerConfig] = {**FORMS, "three in bf16": replace(FAST, precision="bf16")}
    config, model = InferenceConfig(tracker=forms[name]), open_model(source)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "data"
        shorten(data, small, frames)
        started = time.process_time()
        results = [
            Davis(small, "2017").evaluate(s, Path(folder), source, model, config) for s in SEQUENCES
        ]
        seconds = time.process_time() - started
    objects = [o for result in results for o in result.scores.objects]
    j, f = (100 * statistics.mean(getattr(o, m).mean for o in objects) for m in "JF")
    return {
        "form": name,
        "J&F %": (j + f) / 2,
        "J %": j,
        "F %": f,
        "CPU s a frame": seconds / frames / len(results),
    }


def shorten(data: Path, to: Path, frames: int) -> None:
    """A data set of links to the first frames of the sequences."""
    for sequence in (open_sequence(data, name) for name in SEQUENCES):
        for path in (*sequence.frames[:frames], *sequence.annotations[:frames]):
            link = to / path.relative_to(data)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())


if __name__ == "__main__":
    main()
