"""The commands ``corrfractal evaluate`` and ``corrfractal score``: a sub-command per benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corrfractal.common.command_line import examples
from corrfractal.common.console import command, progress, say

from .options import (
    FILE,
    MODEL,
    OVERWRITE,
    PLACE,
    Command,
    inference_config,
    tracker_options,
    workers_option,
)

if TYPE_CHECKING:
    from inference.benchmarks.base import AnyBenchmark, AnyPicturedBenchmark
    from inference.benchmarks.results import Summary


@click.group()
def evaluate() -> None:
    """Propagate and score a benchmark."""


@click.group()
def score() -> None:
    """Score predictions made elsewhere."""


def davis_options(function: Command) -> Command:
    """Where DAVIS is."""
    year = click.option(
        "--year",
        type=click.Choice(["2017", "2016"]),
        show_default="the one that exists, 2017 first",
        help="Version of the lists.",
    )
    return _data_option("DAVIS: the folder of JPEGImages, Annotations, ImageSets.")(year(function))


def youtubevos_options(function: Command) -> Command:
    """Where YouTube-VOS is."""
    split = click.option(
        "--split", default="valid", show_default=True, help="Sub-folder: valid, train, ..."
    )
    return _data_option("YouTube-VOS: the folder of valid, train.")(split(function))


def jhmdb_options(function: Command) -> Command:
    """Where JHMDB is."""
    split = click.option(
        "--split",
        type=click.Choice(["1", "2", "3", "all"]),
        default="1",
        show_default=True,
        help="Test split; all: every video.",
    )
    data = _data_option("JHMDB: the folder of Rename_Images, joint_positions, splits.")
    return data(split(function))


def vip_options(function: Command) -> Command:
    """Where VIP is."""
    return _data_option("VIP_Fine: the folder of Images, Annotations, lists.")(function)


def _data_option(help_text: str) -> Command:
    return click.option("--data", type=FILE, required=True, help=help_text)


def evaluation_options(function: Command) -> Command:
    """The options of every ``evaluate`` command."""
    # Each benchmark has a default folder of its own: results of one would be stale in another's.
    benchmark = function.__name__.removeprefix("evaluate_")
    out = click.option(
        "--out",
        type=PLACE,
        default=f"runs/evaluate-{benchmark}",
        show_default=True,
        help="Folder for predictions, scores.json and report.html.",
    )
    for option in (tracker_options, workers_option("Sequences"), out, OVERWRITE, MODEL):
        function = option(function)
    return function


@evaluate.command(
    "davis",
    epilog=examples(
        "corrfractal evaluate davis --data DAVIS",
        "corrfractal evaluate davis --data DAVIS --model candidate --out new --compare old",
    ),
)
@davis_options
@evaluation_options
@click.option(
    "--compare",
    type=FILE,
    help="Folder of another evaluation of the same data, shown beside this one in the report.",
)
@command
def evaluate_davis(
    data: Path,
    year: str | None,
    model: str | None,
    out: str | Path,
    workers: int | None,
    compare: Path | None,
    overwrite: bool,
    **tracker: Any,
) -> dict[str, Any]:
    """DAVIS val, semi-supervised: masks, J and F per object, and a report. Resumable."""
    from .evaluate import evaluate_davis as run

    evaluation = run(
        data,
        out,
        model,
        inference_config(**tracker),
        workers=workers,
        year=year,
        compare=compare,
        overwrite=overwrite,
    )
    return _print_summary(evaluation)


@evaluate.command(
    "youtubevos",
    epilog=examples("corrfractal evaluate youtubevos --data YouTube-VOS --split valid"),
)
@youtubevos_options
@evaluation_options
@command
def evaluate_youtubevos(data: Path, split: str, **options: Any) -> dict[str, Any]:
    """YouTube-VOS: masks of all frames, ready to submit; J and F of seen and unseen categories
    where annotations exist. Resumable."""
    from inference.benchmarks.youtubevos import YoutubeVos

    return _evaluate(YoutubeVos(data.resolve(), split), **options)


@evaluate.command("jhmdb", epilog=examples("corrfractal evaluate jhmdb --data JHMDB --split 1"))
@jhmdb_options
@evaluation_options
@command
def evaluate_jhmdb(data: Path, split: str, **options: Any) -> dict[str, Any]:
    """JHMDB: key points propagated from the first frame, PCK at 0.1 and 0.2. Resumable."""
    from inference.benchmarks.jhmdb import Jhmdb

    return _evaluate(Jhmdb(data.resolve(), split), **options)


@evaluate.command(
    "vip", epilog=examples("corrfractal evaluate vip --data VIP_Fine --model starter")
)
@vip_options
@evaluation_options
@command
def evaluate_vip(data: Path, **options: Any) -> dict[str, Any]:
    """VIP val: parts propagated from the first frame, mean IoU. Resumable."""
    from inference.benchmarks.vip import Vip

    return _evaluate(Vip(data.resolve()), **options)


@score.command(
    "davis", epilog=examples("corrfractal score davis --data DAVIS --masks masks --json")
)
@davis_options
@click.option("--masks", type=FILE, required=True, help="Folder of SEQUENCE/00000.png.")
@command
def score_davis(data: Path, year: str | None, masks: Path) -> dict[str, Any]:
    """J and F of masks for DAVIS val, exactly as the official evaluation computes them."""
    from inference.benchmarks.davis import Davis

    return _score(Davis(data, year), masks)


@score.command(
    "youtubevos", epilog=examples("corrfractal score youtubevos --data YouTube-VOS --masks masks")
)
@youtubevos_options
@click.option("--masks", type=FILE, required=True, help="Folder of VIDEO/FRAME.png.")
@command
def score_youtubevos(data: Path, split: str, masks: Path) -> dict[str, Any]:
    """J and F of masks for YouTube-VOS, by seen and unseen categories."""
    from inference.benchmarks.youtubevos import YoutubeVos

    return _score(YoutubeVos(data, split), masks)


@score.command("jhmdb", epilog=examples("corrfractal score jhmdb --data JHMDB --points points"))
@jhmdb_options
@click.option(
    "--points",
    type=FILE,
    required=True,
    help="Folder of CLASS/VIDEO.json, in the format that `evaluate jhmdb` writes.",
)
@command
def score_jhmdb(data: Path, split: str, points: Path) -> dict[str, Any]:
    """PCK of key points for JHMDB."""
    from inference.benchmarks.jhmdb import Jhmdb

    return _score(Jhmdb(data, split), points)


@score.command("vip", epilog=examples("corrfractal score vip --data VIP_Fine --masks masks"))
@vip_options
@click.option("--masks", type=FILE, required=True, help="Folder of VIDEO/FRAME.png, part ids.")
@command
def score_vip(data: Path, masks: Path) -> dict[str, Any]:
    """Mean IoU of part masks for VIP val."""
    from inference.benchmarks.vip import Vip

    return _score(Vip(data), masks)


def _evaluate(
    benchmark: AnyPicturedBenchmark,
    *,
    out: str | Path,
    model: str | None,
    workers: int | None,
    overwrite: bool,
    **tracker: Any,
) -> dict[str, Any]:
    from .evaluate import evaluate as run

    config = inference_config(**tracker)
    return _print_summary(run(benchmark, out, model, config, workers=workers, overwrite=overwrite))


def _score(benchmark: AnyBenchmark, predictions: Path) -> dict[str, Any]:
    with progress("score", len(benchmark.names())) as advance:
        return _print_summary(benchmark.score(predictions, advance))


def _print_summary(summary: Summary) -> dict[str, Any]:
    """Print the scores; return them as plain values."""
    for line in summary.lines():
        say(line)
    from corrfractal.files.storage import join

    if summary.out is not None:
        say(f"scores: {join(summary.out, 'scores.json')}")
        say(f"report: {join(summary.out, 'report.html')}")
    return summary.to_dict()
