"""Where the time of a propagated frame is spent, and the J&F that it buys.

    python benchmarks/propagation.py [--data DAVIS] [--4k] [--naive]

- parts of a step at 480 x 854, width 16, five memory frames, three labels: embedding, affinities
  with six densities and with one, up-sampling and decision; and the work around the tracker:
  decoding the frame, blending, writing the mask;
- the complete step with six densities, one, three (``FAST``), at half resolution and in bf16:
  seconds, peak memory, ratio to one density, and the copies that naive attention would unfold.
  Forms run in turns in one process, and the median counts;
- with ``--data``: J&F beside seconds of the starter model and of colour, in several forms, on the
  first frames of three sequences of DAVIS-2017; the parts of a step of the starter model; and its
  seconds by the clock with one thread and with one for each core (an idle machine is needed);
- with ``--naive``: a step with three densities by our attention and by the usual unfolding;
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
from corrfractal.runtime.process import cpu_count
from corrfractal.video import open_video, write_video
from inference.benchmarks.davis import Davis
from inference.config import InferenceConfig
from inference.datasets.davis_files import open_sequence
from inference.load import open_model, resolve_model
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
SCORED = {
    "starter": ("starter", TrackerConfig()),
    "starter, windows at rest": ("starter", TrackerConfig(follow_motion=False)),
    "starter, equal votes": ("starter", TrackerConfig(weigh_by_certainty=False)),
    "starter at half resolution": ("starter", TrackerConfig(resolution="half")),
    "colour": ("baseline:colour", TrackerConfig()),
    "colour, windows at rest": ("baseline:colour", TrackerConfig(follow_motion=False)),
    "colour, equal votes": ("baseline:colour", TrackerConfig(weigh_by_certainty=False)),
}
SEQUENCES = ("drift-straight", "libby", "car-shadow")
# A step that uses five memory frames: 0, 5, 6, 8 and 10.
FRAME = 11


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="DAVIS-2017.")
@click.option("--scored", default=";".join(SCORED), help="Forms to score, by name; split by ';'.")
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
        title = f"inference scores: {', '.join(SEQUENCES)}, {frames} frames"
        print_table(title, [score(name, data, frames) for name in scored.split(";")])
        print_table(
            "inference starter parts: a frame of 480 x 854", starter_parts(data, max(rounds, 3))
        )
        print_table("inference starter threads: a frame of 480 x 854", starter_threads(data))


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
    embedded_once = one._embed(frame)
    mask = scene(SD)[1]
    images = [frame] * 12
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        write_video(video, images, 24)
        work = {
            "decode the frame (h264)": lambda: [None for _ in open_video(video).frames()],
            **tracker_parts(tracker, frame),
            "affinities, one density": lambda: affinities(one, embedded_once),
            "blend the overlay": lambda: blend(frame, mask),
            "write the mask": lambda: write_mask(Path(folder) / "mask.png", mask),
        }
        seconds = time_parts(work, rounds)
    seconds["decode the frame (h264)"] /= len(images)

    # The affinities with one density are not part of a step with six.
    total = sum(value for name, value in seconds.items() if "one density" not in name)
    return [
        {
            "part": name,
            "s": value,
            "share %": 100 * value / total if "one density" not in name else "",
        }
        for name, value in seconds.items()
    ]


def starter_parts(data: Path, rounds: int) -> list[dict[str, Any]]:
    """CPU seconds of each part of the starter model's step at frame 11 of each scored sequence."""
    model = open_model(resolve_model("starter"))
    assert isinstance(model, CorrFractal)
    table = []
    for name in SEQUENCES:
        sequence = open_sequence(data, name)
        tracker = model.tracker(sequence.frame(0), sequence.annotation(0))
        for t in range(1, FRAME):
            tracker.step(sequence.frame(t))
        tracker._t += 1  # as ``step`` does before it matches
        seconds = time_parts(tracker_parts(tracker, sequence.frame(FRAME)), rounds)
        table.append({"sequence": name, **seconds, "sum": sum(seconds.values())})
    return table


def starter_threads(data: Path) -> list[dict[str, Any]]:
    """Median seconds of the starter model's steps to frames 6 to 20, by the clock."""
    model = open_model(resolve_model("starter"))
    table = []
    for name in SEQUENCES:
        sequence = open_sequence(data, name)
        row: dict[str, Any] = {"sequence": name}
        for threads in (1, cpu_count()):
            torch.set_num_threads(threads)
            tracker = model.tracker(sequence.frame(0), sequence.annotation(0), TrackerConfig())
            times = []
            for t in range(1, 21):
                frame = sequence.frame(t)
                started = time.perf_counter()
                tracker.step(frame)
                times.append(time.perf_counter() - started)
            row[f"s, threads: {threads}"] = statistics.median(times[5:])
        torch.set_num_threads(1)
        table.append(row)
    return table


def tracker_parts(tracker: Tracker, frame: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The parts of a step, by name; a step to another frame must have been taken before."""
    embedded = tracker._embed(frame)
    return {
        "embedding": lambda: tracker._embed(frame),
        "affinities": lambda: affinities(tracker, embedded),
        "up-sample and decide": tracker._decide,
    }


def time_parts(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each part."""
    seconds = {}
    with torch.inference_mode():
        for name, part in work.items():
            times = []
            for _ in range(rounds):
                started = time.process_time()
                part()
                times.append(time.process_time() - started)
            seconds[name] = statistics.median(times)
    return seconds


def affinities(tracker: Tracker, frame: EmbeddedFrame) -> Any:
    references = tracker._references(tracker._groups()[0])
    return refine(references, frame.f, frame.refined, tracker._correspondence)


def score(name: str, data: Path, frames: int) -> dict[str, Any]:
    """J&F over the first frames of the sequences, and CPU seconds of the tracker per frame."""
    model_name, tracker = SCORED[name]
    source = resolve_model(model_name)
    model = open_model(source)
    config = InferenceConfig(tracker=tracker)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "data"
        shorten(data, small, frames)
        benchmark = Davis(small, "2017")
        started = time.process_time()
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
        "CPU s a frame": seconds / (frames - 1) / len(results),
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
