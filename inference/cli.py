"""The commands ``corrfractal propagate``, ``corrfractal evaluate davis`` and ``corrfractal score davis``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corrfractal.console import command, progress, say

if TYPE_CHECKING:
    from .config import InferenceConfig
    from .evaluation import Evaluation

FILE = click.Path(path_type=Path)
MODEL_HELP = (
    "Safetensors file, MLflow model folder, models:/NAME@ALIAS, runs:/ID/model or baseline:copy.  "
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


@evaluate.command("davis")
@click.option("--data", type=FILE, required=True, help="DAVIS-2017: the folder of JPEGImages, Annotations, ImageSets.")
@click.option("--model", help=MODEL_HELP)
@click.option(
    "--out", type=FILE, default="runs/evaluate-davis", show_default=True, help="Masks, scores.json, report.html."
)
@click.option("--workers", type=click.IntRange(min=1), help="Sequences at once.  [default: one for every core]")
@click.option("--fast", is_flag=True, help=FAST_HELP)
@command
def evaluate_davis(data: Path, model: str | None, out: Path, workers: int | None, fast: bool) -> dict[str, Any]:
    """DAVIS-2017 val, semi-supervised: J and F per object, masks and a report. Run again to go on where it stopped."""
    from .run import evaluate_davis as run

    evaluation = run(data, out, model, _config(fast), workers=workers)
    _say_scores(evaluation)
    say(f"report: {out / 'report.html'}")
    return evaluation.to_dict()


@click.group()
def score() -> None:
    """Score masks made elsewhere."""


@score.command("davis")
@click.option("--data", type=FILE, required=True, help="DAVIS-2017: the folder of JPEGImages, Annotations, ImageSets.")
@click.option("--masks", type=FILE, required=True, help="Folder of SEQUENCE/00000.png.")
@command
def score_davis(data: Path, masks: Path) -> dict[str, Any]:
    """J and F of masks for DAVIS-2017 val, exactly as the official evaluation computes them."""
    from .datasets.davis import sequence_names
    from .evaluation import score_masks

    with progress("score", len(sequence_names(data))) as advance:
        evaluation = score_masks(data, masks, advance)
    _say_scores(evaluation)
    return evaluation.to_dict()


def _config(fast: bool) -> InferenceConfig:
    from corrfractal.tracker import FAST

    from .config import InferenceConfig

    return InferenceConfig(tracker=FAST) if fast else InferenceConfig()


def _say_scores(evaluation: Evaluation) -> None:
    width = max(len(o.name) for o in evaluation.objects)
    say(f"{'object':{width}}       J       F")
    for o in evaluation.objects:
        say(f"{o.name:{width}}  {o.J.mean:.4f}  {o.F.mean:.4f}")
    say(f"{'mean':{width}}  {evaluation.mean('J'):.4f}  {evaluation.mean('F'):.4f}   J&F {evaluation.JF:.4f}")
