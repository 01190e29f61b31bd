"""Where the time of a propagated frame is spent.

    python benchmarks/propagation.py [--data DAVIS] [--model FILE] [--4k]

- parts of a step at 480 x 854, width 16, five memory frames, three labels: embedding,
  affinities with six densities and with one, up-sampling and decision; and the work around the
  tracker: decoding the frame, blending, writing the mask;
- the complete step with six densities, one, three (``FAST``), at half resolution and in bf16:
  seconds, peak memory, ratio to one density, and the copies that naive attention would unfold.
  Forms run in turns in one process, and the median counts;
- with ``--naive``: a step with three densities by our attention and by the usual unfolding;
- with ``--data``: J&F of ``FAST`` and of its half-resolution and bf16 forms on three sequences of
  DAVIS-2017;
- with ``--4k``: one frame of 2160 x 3840 at widths 16 and 64, with its peak memory.
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
from corrfractal.network.correspondence import refine
from corrfractal.network.propagator import EmbeddedFrame
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
# A step that uses five memory frames: 0, 5, 6, 8 and 10.
FRAME = 11


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="DAVIS-2017.")
@click.option("--model", default="baseline:untrained", show_default=True)
@click.option("--scored", default=",".join(SCORED), help="Forms to score, by name.")
@click.option("--frames", default=25, show_default=True, help="Frames of each scored sequence.")
@click.option(
    "--forms",
    default=",".join(FORMS),
    help="Forms to time, by name; some processors emulate bf16.",
)
@click.option(
    "--rounds", default=3, show_default=True, help="Number of turns of each form and part."
)
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
            "inference beside naive attention: 480 x 854, width 16, three densities",
            compare_naive(),
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


def prepared_tracker(
    size: tuple[int, int], config: TrackerConfig, width: int = 16
) -> tuple[Tracker, np.ndarray]:
    """A tracker whose next step is to ``FRAME``, and a frame."""
    frame, mask = scene(size)
    tracker = network(width).tracker(frame, mask, config)
    rewind(tracker)
    return tracker, frame


def rewind(tracker: Tracker) -> None:
    """Return a tracker to the step before ``FRAME``, with copies of one memory frame.

    The cost of a step is independent of the contents of its memory frames.
    """
    tracker._memory = dict.fromkeys(range(FRAME), tracker._memory[0])
    tracker._t = FRAME - 1


def prepare(size: tuple[int, int], config: TrackerConfig, width: int = 16) -> Callable[[], Any]:
    torch.set_num_threads(1)
    tracker, frame = prepared_tracker(size, config, width)
    return lambda: tracker.step(frame)


def steps(names: list[str], rounds: int) -> list[dict[str, Any]]:
    """Time the forms in turns, and measure the peak memory of each in a process of its own."""
    trackers = {name: prepared_tracker(SD, FORMS[name]) for name in names}
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


def compare_naive() -> list[dict[str, Any]]:
    forms = {"ours": peak_and_seconds(prepare, SD, FAST), "naive": peak_and_seconds(prepare_naive)}
    peak, seconds = forms["ours"]
    return [
        {
            "attention": name,
            "s": form_seconds,
            "peak MB": form_peak,
            "x our time": form_seconds / seconds,
            "x our peak": form_peak / peak,
        }
        for name, (form_peak, form_seconds) in forms.items()
    ]


def prepare_naive() -> Callable[[], Any]:
    corrfractal.network.attention.restricted_attention = naive_restricted_attention
    return prepare(SD, FAST)


def parts(rounds: int) -> list[dict[str, Any]]:
    """CPU seconds of each part, and its share of a frame with six densities."""
    tracker, frame = prepared_tracker(SD, SIX)
    tracker.step(frame)
    rewind(tracker)
    one, _ = prepared_tracker(SD, FORMS["one density (1/2)"])
    embedded = tracker._embed(frame)
    embedded_once = one._embed(frame)
    mask = scene(SD)[1]
    images = [frame] * 12
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        write_video(video, images, 24)
        work: dict[str, Callable[[], Any]] = {
            "decode the frame (h264)": lambda: [None for _ in open_video(video).frames()],
            "embed, six densities": lambda: tracker._embed(frame),
            "affinities, six densities": lambda: affinities(tracker, embedded),
            "affinities, one density": lambda: affinities(one, embedded_once),
            "up-sample and decide": tracker._decide,
            "blend the overlay": lambda: blend(frame, mask),
            "write the mask": lambda: write_mask(Path(folder) / "mask.png", mask),
        }
        rows: list[dict[str, Any]] = []
        with torch.inference_mode():
            for name, part in work.items():
                times = []
                for _ in range(rounds):
                    started = time.process_time()
                    part()
                    times.append(time.process_time() - started)
                frames = len(images) if "decode" in name else 1
                rows.append({"part": name, "s": statistics.median(times) / frames})

    # The affinities with one density are not part of a step with six.
    total = sum(row["s"] for row in rows if "one density" not in row["part"])
    return [
        {**row, "share %": 100 * row["s"] / total if "one density" not in row["part"] else ""}
        for row in rows
    ]


def affinities(tracker: Tracker, frame: EmbeddedFrame) -> Any:
    references = tracker._references(tracker._groups()[0])
    return refine(references, frame.f, frame.refined, tracker._correspondence)


def score(name: str, source: ModelSource, data: Path, frames: int) -> dict[str, Any]:
    """Mean J&F over the first frames of the sequences, and CPU seconds per frame."""
    forms: dict[str, TrackerConfig] = {**FORMS, "three in bf16": replace(FAST, precision="bf16")}
    config = InferenceConfig(tracker=forms[name])
    model = open_model(source)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "data"
        shorten(data, small, frames)
        started = time.process_time()
        benchmark = Davis(small, "2017")
        results = [
            benchmark.evaluate(sequence, Path(folder), source, model, config)
            for sequence in SEQUENCES
        ]
        seconds = time.process_time() - started
    objects = [each for result in results for each in result.scores.objects]
    J = 100 * statistics.mean(each.J.mean for each in objects)
    F = 100 * statistics.mean(each.F.mean for each in objects)
    return {
        "form": name,
        "J&F %": (J + F) / 2,
        "J %": J,
        "F %": F,
        "CPU s a frame": seconds / frames / len(results),
    }


def shorten(data: Path, to: Path, frames: int) -> None:
    """Link the first frames of the sequences into a new data set."""
    for name in SEQUENCES:
        sequence = open_sequence(data, name)
        for path in (*sequence.frames[:frames], *sequence.annotations[:frames]):
            link = to / path.relative_to(data)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())


if __name__ == "__main__":
    main()
