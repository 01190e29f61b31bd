"""Choose a model or a setting of the tracker on the development sequences, with paired differences.

    python -m benchmarks.development SET SET ... --out FOLDER --row 'NAME=MODEL [KEY=VALUE ...]' ...

    python -m benchmarks.development DAVIS TRAIN --out runs/development \\
        --row 'today=starter' --row 'follow=starter tracker.follow_motion=true'

Each SET is a folder in the layout of DAVIS-2017; a row is a model, as ``--model`` takes it, with
settings, as ``--set`` takes them. Every row is evaluated on all sequences of all sets through Ray,
and so is ``baseline:colour`` with the same settings. Results are kept below the folder, named by
model and settings: rerun the command to resume it, or add a row to compare it with earlier ones.

Printed for each row: J&F of each set, of all sequences and of colour; the difference to the first
row, paired by sequence, with its standard error; the same on each half of a fixed random split;
and whether the row *counts*: its difference exceeds two standard errors and is positive on both
halves. J&F of a sequence is the mean over its objects, and that of a set the mean over its
sequences; the official mean is over objects. Seconds are those of the tracker, by the wall clock.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from corrfractal.common.config import digest
from corrfractal.common.workflow_file import with_settings
from inference.config import InferenceConfig
from inference.datasets.davis_files import open_sequence, sequence_names
from inference.evaluate import evaluate_davis
from inference.load import resolve_model

sys.path.insert(0, str(Path(__file__).parent))
from measure import print_table

COLOUR = "baseline:colour"
SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model with settings, under a name of the user's."""

    name: str
    model: str
    settings: tuple[str, ...]

    @property
    def config(self) -> InferenceConfig:
        return with_settings(InferenceConfig(), self.settings)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """J&F of every sequence in per cent, by the set's name and its own, and seconds per frame."""

    jf: dict[tuple[str, str], float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Differences of a row to another one, paired by sequence, in points of J&F."""

    mean: float
    error: float
    halves: tuple[float, float]

    @property
    def counts(self) -> bool:
        """Whether the difference is a gain by more than two standard errors, on both halves."""
        return self.mean > 2 * self.error and min(self.halves) > 0


@click.command()
@click.argument(
    "sets", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--row", "rows", multiple=True, required=True, help="'NAME=MODEL [KEY=VALUE ...]'")
@click.option("--frames", type=int, help="Score only the first frames of each sequence.")
@click.option("--workers", default=0, help="Sequences at once; 0: one for each core.")
def main(
    sets: tuple[Path, ...], out: Path, rows: tuple[str, ...], frames: int | None, workers: int
) -> None:
    named = [parse_row(text) for text in rows]
    if frames is not None:
        sets = tuple(
            first_frames(data, out / f"first-{frames}" / data.name, frames) for data in sets
        )

    scores = {}
    colours = {}
    for row in named:
        scores[row.name] = evaluate_row(row, sets, out, workers)
        colour = Row(name="colour", model=COLOUR, settings=row.settings)
        colours[row.name] = evaluate_row(colour, sets, out, workers)

    count = len(next(iter(scores.values())).jf)
    shown = "all frames" if frames is None else f"the first {frames} frames"
    print_table(f"development: {count} sequences, {shown}", summary(named, scores, colours))
    print_table("development by sequence: J&F in per cent", by_sequence(scores))


def parse_row(text: str) -> Row:
    """``NAME=MODEL [KEY=VALUE ...]``; settings end at the next space."""
    name, found, rest = text.partition("=")
    words = rest.split()
    if not found or not words or not name:
        raise click.BadParameter(f"a row is 'NAME=MODEL [KEY=VALUE ...]', got {text!r}")
    return Row(name=name, model=words[0], settings=tuple(words[1:]))


def evaluate_row(row: Row, sets: Sequence[Path], out: Path, workers: int) -> Scores:
    """Scores of a row on all sets; those that are stored are read."""
    config = row.config
    source = resolve_model(row.model)
    jf: dict[tuple[str, str], float] = {}
    seconds = []
    for data in sets:
        # By contents: rows of the same model and settings share their results.
        identity = digest([source.digest, config.digest])[:12]
        folder = out / f"{source.name.replace('/', '-').replace(':', '-')}-{identity}" / data.name
        evaluate_davis(data, folder, row.model, config, workers=workers)
        stored = json.loads((folder / "scores.json").read_text())
        seconds.append(stored["seconds_per_frame"])
        for sequence, value in sequence_scores(stored["per_object"]).items():
            jf[data.name, sequence] = value
    return Scores(jf=jf, seconds=statistics.mean(seconds))


def sequence_scores(per_object: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean J&F of the objects of each sequence, in per cent; objects are ``SEQUENCE_ID``."""
    values: dict[str, list[float]] = {}
    for name, measures in per_object.items():
        sequence = name.rpartition("_")[0]
        values.setdefault(sequence, []).append(50 * (measures["J"] + measures["F"]))
    return {sequence: statistics.mean(each) for sequence, each in values.items()}


def halves_of(keys: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], ...]:
    """A fixed random split of the sequences into halves."""
    shuffled = sorted(keys)
    random.Random(SPLIT_SEED).shuffle(shuffled)
    middle = len(shuffled) // 2
    return shuffled[:middle], shuffled[middle:]


def compare(row: Scores, first: Scores) -> Comparison:
    """Differences of ``row`` to ``first``, paired by sequence."""
    differences = {key: row.jf[key] - first.jf[key] for key in first.jf}
    values = list(differences.values())
    error = 0.0
    if len(values) > 1:
        error = statistics.stdev(values) / math.sqrt(len(values))
    halves = [
        statistics.mean(differences[key] for key in half) if half else 0.0
        for half in halves_of(list(differences))
    ]
    return Comparison(mean=statistics.mean(values), error=error, halves=(halves[0], halves[1]))


def summary(
    rows: Sequence[Row], scores: dict[str, Scores], colours: dict[str, Scores]
) -> list[dict[str, Any]]:
    """One line for each row of the table."""
    first = scores[rows[0].name]
    table = []
    for row in rows:
        found = scores[row.name]
        line: dict[str, Any] = {"row": row.name, "settings": " ".join((row.model, *row.settings))}
        for data in dict.fromkeys(data for data, _ in found.jf):
            values = [value for (name, _), value in found.jf.items() if name == data]
            line[f"{data} ({len(values)})"] = f"{statistics.mean(values):.1f}"
        line["all"] = f"{statistics.mean(found.jf.values()):.1f}"
        line["colour"] = f"{statistics.mean(colours[row.name].jf.values()):.1f}"
        if row is not rows[0]:
            comparison = compare(found, first)
            line["difference"] = f"{comparison.mean:+.1f} ± {comparison.error:.1f}"
            line["halves"] = ", ".join(f"{half:+.1f}" for half in comparison.halves)
            line["counts"] = "yes" if comparison.counts else "no"
        line["s a frame"] = f"{found.seconds:.2f}"
        table.append(line)
    return table


def by_sequence(scores: dict[str, Scores]) -> list[dict[str, Any]]:
    """J&F of every row, a line for each sequence."""
    keys = next(iter(scores.values())).jf
    return [
        {"sequence": sequence}
        | {name: f"{found.jf[data, sequence]:.1f}" for name, found in scores.items()}
        for data, sequence in keys
    ]


def first_frames(data: Path, to: Path, frames: int) -> Path:
    """Link the first frames of each sequence into a set of their own, unless ``to`` has them."""
    listing = to / "ImageSets" / "2017" / "val.txt"
    if listing.exists():
        return to
    names = sequence_names(data)
    for name in names:
        sequence = open_sequence(data, name)
        for path in (*sequence.frames[:frames], *sequence.annotations[:frames]):
            link = to / path.relative_to(data)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(path.resolve())
    # Written last: it marks the set as complete.
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("\n".join(names) + "\n")
    return to


if __name__ == "__main__":
    main()
