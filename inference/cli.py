"""The commands ``corrfractal propagate``, and ``corrfractal evaluate`` and ``score`` of every data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corrfractal.console import command, progress, say

if TYPE_CHECKING:
    from .config import InferenceConfig
    from .results import Benchmark, Summary

FILE = click.Path(path_type=Path)
MODEL_HELP = (
    "Safetensors file, MLflow model folder, models:/NAME@ALIAS, runs:/ID/model or "
    "baseline:copy|colour|untrained.  "
    "[default: the champion of the registry, else its candidate]"
)
FAST_HELP = "Three densities instead of six: several times faster on a CPU, coarser at boundaries."


@click.command()
@click.argument("video", type=FILE)
@click.option(
    "--mask", type=FILE, required=True, help="Objects of the first frame: palette or grey PNG, 0 = background."
)
@click.option("--out", type=FILE, required=True, help="Folder for the masks, 00000.png on.")
@click.option("--model", help=MODEL_HELP)
@click.option("--video", "overlay", type=FILE, help="Also write this h264 video (.mp4) with the objects tinted.")
@click.option("--fast", is_flag=True, help=FAST_HELP)
@command
def propagate(
    video: Path, mask: Path, out: Path, model: str | None, overlay: Path | None, fast: bool
) -> dict[str, Any]:
    """Carry the mask of the first frame through VIDEO (a file or a folder of frames): a mask for every frame."""
    from dataclasses import asdict

    from .propagate import propagate_video

    result = propagate_video(video, mask, out, model, _config(fast), overlay=overlay)
    ids = ", ".join(map(str, result.objects))
    say(f"{result.frames} masks of object {ids} in {out} ({result.seconds_per_frame:.2f} s per frame, {result.model})")
    if overlay is not None:
        say(f"overlay video: {overlay}")
    return asdict(result)


@click.group()
def evaluate() -> None:
    """Propagate and score a data set."""


def evaluation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every ``evaluate`` command has; apply below ``--data``."""
    name = function.__name__.removeprefix("evaluate_")
    for option in (
        click.option("--fast", is_flag=True, help=FAST_HELP),
        click.option("--workers", type=click.IntRange(min=1), help="Sequences at once.  [default: one for every core]"),
        click.option(
            "--out",
            type=FILE,
            default=f"runs/evaluate-{name}",
            show_default=True,
            help="Folder for predictions and scores.json.",
        ),
        click.option("--model", help=MODEL_HELP),
    ):
        function = option(function)
    return function


DAVIS_DATA = click.option(
    "--data", type=FILE, required=True, help="DAVIS: the folder of JPEGImages, Annotations, ImageSets."
)
DAVIS_YEAR = click.option(
    "--year",
    type=click.Choice(["2017", "2016"]),
    help="Which lists to read.  [default: those that are there, 2017 first]",
)
YOUTUBEVOS_DATA = click.option("--data", type=FILE, required=True, help="YouTube-VOS: the folder of valid, train.")
YOUTUBEVOS_SPLIT = click.option("--split", default="valid", show_default=True, help="Which folder: valid, train, ...")
JHMDB_DATA = click.option(
    "--data", type=FILE, required=True, help="JHMDB: the folder of Rename_Images, joint_positions, splits."
)
JHMDB_SPLIT = click.option(
    "--split", type=click.Choice(["1", "2", "3", "all"]), default="1", show_default=True, help="all: every video."
)
VIP_DATA = click.option("--data", type=FILE, required=True, help="VIP_Fine: the folder of Images, Annotations, lists.")


@evaluate.command("davis")
@DAVIS_DATA
@DAVIS_YEAR
@evaluation_options
@command
def evaluate_davis(
    data: Path, year: str | None, model: str | None, out: Path, workers: int | None, fast: bool
) -> dict[str, Any]:
    """DAVIS val, semi-supervised: J and F per object, masks and a report. Run again to go on where it stopped."""
    from .run import evaluate_davis as run

    evaluation = run(data, out, model, _config(fast), workers=workers, year=year)
    result = _told(evaluation)
    say(f"report: {out / 'report.html'}")
    return result


@evaluate.command("youtubevos")
@YOUTUBEVOS_DATA
@YOUTUBEVOS_SPLIT
@evaluation_options
@command
def evaluate_youtubevos(
    data: Path, split: str, model: str | None, out: Path, workers: int | None, fast: bool
) -> dict[str, Any]:
    """YouTube-VOS: masks of all frames, to submit; J and F of seen and unseen categories where the truth is there."""
    from .youtubevos import YoutubeVos

    return _evaluate(YoutubeVos(data.resolve(), split), out, model, workers, fast)


@evaluate.command("jhmdb")
@JHMDB_DATA
@JHMDB_SPLIT
@evaluation_options
@command
def evaluate_jhmdb(
    data: Path, split: str, model: str | None, out: Path, workers: int | None, fast: bool
) -> dict[str, Any]:
    """JHMDB: key points carried from the first frame, PCK at 0.1 and 0.2."""
    from .jhmdb import Jhmdb

    return _evaluate(Jhmdb(data.resolve(), split), out, model, workers, fast)


@evaluate.command("vip")
@VIP_DATA
@evaluation_options
@command
def evaluate_vip(data: Path, model: str | None, out: Path, workers: int | None, fast: bool) -> dict[str, Any]:
    """VIP val: parts carried from the first frame, mean IoU."""
    from .vip import Vip

    return _evaluate(Vip(data.resolve()), out, model, workers, fast)


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
    from .evaluation import Davis

    benchmark = Davis(data, year)
    with progress("score", len(benchmark.names())) as advance:
        evaluation = benchmark.score(masks, advance)
    return _told(evaluation)


@score.command("youtubevos")
@YOUTUBEVOS_DATA
@YOUTUBEVOS_SPLIT
@click.option("--masks", type=FILE, required=True, help="Folder of VIDEO/FRAME.png.")
@command
def score_youtubevos(data: Path, split: str, masks: Path) -> dict[str, Any]:
    """J and F of masks for YouTube-VOS, seen and unseen categories."""
    from .youtubevos import YoutubeVos

    benchmark = YoutubeVos(data, split)
    with progress("score", len(benchmark.names())) as advance:
        summary = benchmark.score(masks, advance)
    return _told(summary)


@score.command("jhmdb")
@JHMDB_DATA
@JHMDB_SPLIT
@click.option("--points", type=FILE, required=True, help="Folder of CLASS/VIDEO.json, as `evaluate jhmdb` writes it.")
@command
def score_jhmdb(data: Path, split: str, points: Path) -> dict[str, Any]:
    """PCK of key points for JHMDB."""
    from .jhmdb import Jhmdb

    benchmark = Jhmdb(data, split)
    with progress("score", len(benchmark.names())) as advance:
        summary = benchmark.score(points, advance)
    return _told(summary)


@score.command("vip")
@VIP_DATA
@click.option("--masks", type=FILE, required=True, help="Folder of VIDEO/FRAME.png, part ids.")
@command
def score_vip(data: Path, masks: Path) -> dict[str, Any]:
    """Mean IoU of part masks for VIP val."""
    from .vip import Vip

    benchmark = Vip(data)
    with progress("score", len(benchmark.names())) as advance:
        summary = benchmark.score(masks, advance)
    return _told(summary)


def _config(fast: bool) -> InferenceConfig:
    from corrfractal.tracker import FAST

    from .config import InferenceConfig

    return InferenceConfig(tracker=FAST) if fast else InferenceConfig()


def _evaluate(benchmark: Benchmark, out: Path, model: str | None, workers: int | None, fast: bool) -> dict[str, Any]:
    from .run import evaluate as run

    return _told(run(benchmark, out, model, _config(fast), workers=workers))


def _told(summary: Summary) -> dict[str, Any]:
    """Say the scores, and give them as plain values."""
    for line in summary.lines():
        say(line)
    if summary.out is not None:
        say(f"scores: {summary.out / 'scores.json'}")
    return summary.to_dict()
