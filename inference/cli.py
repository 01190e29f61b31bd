"""The commands ``corrfractal propagate``, and ``corrfractal evaluate`` and ``score`` of every data
set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corrfractal.common.console import command, progress, say

if TYPE_CHECKING:
    from inference.benchmarks.base import Benchmark, PicturedBenchmark, Summary

    from .config import InferenceConfig

FILE = click.Path(path_type=Path)
MODEL_HELP = (
    "Safetensors file, MLflow model folder, models:/NAME@ALIAS, runs:/ID/model or starter, "
    "baseline:copy|colour|untrained.  [default: the champion of the registry, else its candidate, "
    "else the starter]"
)
FAST_HELP = "Three densities instead of six: several times faster on a CPU, coarser at boundaries."


def _tracker_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How labels are propagated: the same for one video and for a data set."""
    options = (
        click.option("--fast", is_flag=True, help=FAST_HELP),
        click.option(
            "--resolution", type=click.Choice(["full", "half"]), default="full", show_default=True,
            help="Embed frames at half their size: about four times faster, coarser.",
        ),
        click.option(
            "--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True,
            help="Of the backbone and of what is remembered.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.argument("video", type=FILE)
@click.option(
    "--mask", "--parts", "masks", multiple=True, metavar="PNG|FRAME:PNG|FOLDER",
    help="Objects or parts of the first frame, or of FRAME, or of the frames that a folder's PNG files are named by: "
    "palette or grey, 0 = background. Later masks correct and add objects. FRAME is a number from "
    "0 on or, in a folder of frames, a file's name without suffix.",
)  # fmt: skip
@click.option(
    "--box",
    "boxes",
    multiple=True,
    metavar="[FRAME:]ID,X0,Y0,X1,Y1",
    help="An object as a box, in pixels.",
)
@click.option(
    "--point",
    "points",
    multiple=True,
    metavar="[FRAME:]ID,X,Y[,RADIUS]",
    help="An object as a disk.",
)
@click.option(
    "--points",
    "keypoints",
    type=FILE,
    help="Follow key points instead: CSV id,x,y or JSON {name: [x, y]}.",
)
@click.option(
    "--out", type=FILE, required=True,
    help="Folder for the masks, named as the frames (00000.png on for a video file); for key points, points.csv.",
)  # fmt: skip
@click.option(
    "--overwrite", is_flag=True, help="Replace files of others where results go. Never an input."
)
@click.option("--model", help=MODEL_HELP)
@click.option(
    "--video",
    "overlay",
    type=FILE,
    help="Also write this h264 video (.mp4) with the objects tinted.",
)
@click.option("--contours", type=FILE, help="Also write this h264 video with their outlines.")
@click.option(
    "--cutout",
    type=FILE,
    help="Also write the objects alone, with alpha: a .webm, or a folder of PNG files.",
)
@click.option(
    "--probabilities",
    is_flag=True,
    help="Also write soft labels, OUT/probabilities/ID/00000.png of 8 bits.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Videos at once, of many.  [default: one for every core]",
)
@_tracker_options
@command
def propagate(
    video: Path,
    masks: tuple[str, ...],
    boxes: tuple[str, ...],
    points: tuple[str, ...],
    keypoints: Path | None,
    out: Path,
    model: str | None,
    overlay: Path | None,
    contours: Path | None,
    cutout: Path | None,
    probabilities: bool,
    workers: int | None,
    overwrite: bool,
    **tracker: Any,
) -> dict[str, Any]:
    """Carry masks or key points through VIDEO: a mask for every frame. Run again to go on where it
    stopped.

    VIDEO is a file, a folder of frames, or many videos: a folder of them, or a text file that lists
    them. For many, --mask is a folder with NAME.png, or a folder NAME of numbered masks, for each;
    --video, --contours and --cutout are folders too.
    """
    from dataclasses import asdict

    from inference.prompts.keypoints import read_points
    from inference.prompts.shapes import read_prompts

    from .outputs import Outputs
    from .propagate import propagate_video
    from .videos import frame_names, is_many

    outputs = Outputs(
        overlay=overlay, contours=contours, cutout=cutout, probabilities=probabilities
    )
    if is_many(video):
        from .propagate_many import propagate_videos

        if len(masks) != 1 or boxes or points or keypoints:
            raise click.UsageError(
                "many videos take one --mask FOLDER, with NAME.png for each of them"
            )
        done = propagate_videos(
            video,
            Path(masks[0]),
            out,
            model,
            _config(tracker),
            outputs=outputs,
            workers=workers,
            overwrite=overwrite,
        )
        say(f"{sum(p.frames for p in done)} masks of {len(done)} videos in {out}")
        return {"videos": [asdict(result) for result in done]}
    if keypoints is not None and (masks or boxes or points):
        raise click.UsageError(
            "--points follows key points alone: give masks in a call of their own"
        )
    frames = frame_names(video)
    given = (
        read_prompts(masks, boxes, points, frames)
        if keypoints is None
        else read_points(keypoints, frames)
    )
    result = propagate_video(
        video, given, out, model, _config(tracker), outputs=outputs, overwrite=overwrite
    )
    ids = ", ".join(map(str, result.objects))
    what = "masks of object" if keypoints is None else "frames with point"
    kept = f", {result.kept} of them kept from an earlier run" if result.kept else ""
    say(
        f"{result.frames} {what} {ids} in {out}{kept} ({result.seconds_per_frame:.2f} s per frame, "
        f"{result.model})"
    )
    for path in (overlay, contours, cutout):
        if path is not None:
            say(f"also: {path}")
    return asdict(result)


@click.group()
def evaluate() -> None:
    """Propagate and score a data set."""


def evaluation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every ``evaluate`` command has; apply below ``--data``."""
    name = function.__name__.removeprefix("evaluate_")
    for option in (
        _tracker_options,
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            help="Sequences at once.  [default: one for every core]",
        ),
        click.option(
            "--out",
            type=FILE,
            default=f"runs/evaluate-{name}",
            show_default=True,
            help="Folder for predictions and scores.json.",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Replace files of others where results go. Never an input.",
        ),
        click.option("--model", help=MODEL_HELP),
    ):
        function = option(function)
    return function


DAVIS_DATA = click.option(
    "--data",
    type=FILE,
    required=True,
    help="DAVIS: the folder of JPEGImages, Annotations, ImageSets.",
)
DAVIS_YEAR = click.option(
    "--year",
    type=click.Choice(["2017", "2016"]),
    help="Which lists to read.  [default: those that are there, 2017 first]",
)
YOUTUBEVOS_DATA = click.option(
    "--data", type=FILE, required=True, help="YouTube-VOS: the folder of valid, train."
)
YOUTUBEVOS_SPLIT = click.option(
    "--split", default="valid", show_default=True, help="Which folder: valid, train, ..."
)
JHMDB_DATA = click.option(
    "--data",
    type=FILE,
    required=True,
    help="JHMDB: the folder of Rename_Images, joint_positions, splits.",
)
JHMDB_SPLIT = click.option(
    "--split",
    type=click.Choice(["1", "2", "3", "all"]),
    default="1",
    show_default=True,
    help="all: every video.",
)
VIP_DATA = click.option(
    "--data", type=FILE, required=True, help="VIP_Fine: the folder of Images, Annotations, lists."
)


@evaluate.command("davis")
@DAVIS_DATA
@DAVIS_YEAR
@evaluation_options
@click.option(
    "--compare",
    type=FILE,
    help="Folder of another evaluation, to be set beside this one in the report.",
)
@command
def evaluate_davis(
    data: Path,
    year: str | None,
    model: str | None,
    out: Path,
    workers: int | None,
    compare: Path | None,
    overwrite: bool,
    **tracker: Any,
) -> dict[str, Any]:
    """DAVIS val, semi-supervised: J and F per object, masks and a report. Run again to go on where
    it stopped."""
    from .evaluate import evaluate_davis as run

    evaluation = run(
        data,
        out,
        model,
        _config(tracker),
        workers=workers,
        year=year,
        compare=compare,
        overwrite=overwrite,
    )
    return _print_summary(evaluation)


@evaluate.command("youtubevos")
@YOUTUBEVOS_DATA
@YOUTUBEVOS_SPLIT
@evaluation_options
@command
def evaluate_youtubevos(
    data: Path,
    split: str,
    model: str | None,
    out: Path,
    workers: int | None,
    overwrite: bool,
    **tracker: Any,
) -> dict[str, Any]:
    """YouTube-VOS: masks of all frames, to submit; J and F of seen and unseen categories where the
    truth is there."""
    from inference.benchmarks.youtubevos import YoutubeVos

    return _evaluate(YoutubeVos(data.resolve(), split), out, model, workers, overwrite, tracker)


@evaluate.command("jhmdb")
@JHMDB_DATA
@JHMDB_SPLIT
@evaluation_options
@command
def evaluate_jhmdb(
    data: Path,
    split: str,
    model: str | None,
    out: Path,
    workers: int | None,
    overwrite: bool,
    **tracker: Any,
) -> dict[str, Any]:
    """JHMDB: key points carried from the first frame, PCK at 0.1 and 0.2."""
    from inference.benchmarks.jhmdb import Jhmdb

    return _evaluate(Jhmdb(data.resolve(), split), out, model, workers, overwrite, tracker)


@evaluate.command("vip")
@VIP_DATA
@evaluation_options
@command
def evaluate_vip(
    data: Path, model: str | None, out: Path, workers: int | None, overwrite: bool, **tracker: Any
) -> dict[str, Any]:
    """VIP val: parts carried from the first frame, mean IoU."""
    from inference.benchmarks.vip import Vip

    return _evaluate(Vip(data.resolve()), out, model, workers, overwrite, tracker)


@click.group()
def score() -> None:
    """Score predictions made elsewhere."""


@score.command("davis")
@DAVIS_DATA
@DAVIS_YEAR
@click.option("--masks", type=FILE, required=True, help="Folder of SEQUENCE/00000.png.")
@command
def score_davis(data: Path, year: str | None, masks: Path) -> dict[str, Any]:
    """J and F of masks for DAVIS val, exactly as the official evaluation computes them."""
    from inference.benchmarks.davis import Davis

    return _score(Davis(data, year), masks)


@score.command("youtubevos")
@YOUTUBEVOS_DATA
@YOUTUBEVOS_SPLIT
@click.option("--masks", type=FILE, required=True, help="Folder of VIDEO/FRAME.png.")
@command
def score_youtubevos(data: Path, split: str, masks: Path) -> dict[str, Any]:
    """J and F of masks for YouTube-VOS, seen and unseen categories."""
    from inference.benchmarks.youtubevos import YoutubeVos

    return _score(YoutubeVos(data, split), masks)


@score.command("jhmdb")
@JHMDB_DATA
@JHMDB_SPLIT
@click.option(
    "--points",
    type=FILE,
    required=True,
    help="Folder of CLASS/VIDEO.json, as `evaluate jhmdb` writes it.",
)
@command
def score_jhmdb(data: Path, split: str, points: Path) -> dict[str, Any]:
    """PCK of key points for JHMDB."""
    from inference.benchmarks.jhmdb import Jhmdb

    return _score(Jhmdb(data, split), points)


@score.command("vip")
@VIP_DATA
@click.option("--masks", type=FILE, required=True, help="Folder of VIDEO/FRAME.png, part ids.")
@command
def score_vip(data: Path, masks: Path) -> dict[str, Any]:
    """Mean IoU of part masks for VIP val."""
    from inference.benchmarks.vip import Vip

    return _score(Vip(data), masks)


def _config(options: dict[str, Any]) -> InferenceConfig:
    from dataclasses import replace

    from corrfractal.network.tracker import FAST, TrackerConfig

    from .config import InferenceConfig

    tracker = FAST if options["fast"] else TrackerConfig()
    return InferenceConfig(
        tracker=replace(tracker, resolution=options["resolution"], precision=options["precision"])
    )


def _evaluate(
    benchmark: PicturedBenchmark,
    out: Path,
    model: str | None,
    workers: int | None,
    overwrite: bool,
    tracker: dict[str, Any],
) -> dict[str, Any]:
    from .evaluate import evaluate as run

    return _print_summary(
        run(benchmark, out, model, _config(tracker), workers=workers, overwrite=overwrite)
    )


def _score(benchmark: Benchmark, predictions: Path) -> dict[str, Any]:
    with progress("score", len(benchmark.names())) as advance:
        return _print_summary(benchmark.score(predictions, advance))


def _print_summary(summary: Summary) -> dict[str, Any]:
    """Say the scores, and give them as plain values."""
    for line in summary.lines():
        say(line)
    if summary.out is not None:
        say(f"scores: {summary.out / 'scores.json'}")
        say(f"report: {summary.out / 'report.html'}")
    return summary.to_dict()
