"""What each part of the starter model contributes.

    python benchmarks/studies/starter.py DAVIS [--rows trained,untrained,...]

Scores the sequences of a set in the layout of DAVIS-2017 with the same tracker and

- trained: the starter model with embedding and colour;
- embedding alone: the starter model without the cosine of Lab patches;
- untrained: the network before training, with colour;
- colour: ``baseline:colour``, and copy: ``baseline:copy``.

All rows take about an hour of one core; separate calls with one row each can run in parallel.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from corrfractal import CorrFractal, CorrFractalConfig
from inference.benchmarks.davis import Davis
from inference.config import InferenceConfig
from inference.datasets.davis_files import sequence_names
from inference.load import open_model, resolve_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import print_table

ROWS = ("trained", "embedding alone", "untrained", "colour", "copy")


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rows", default=",".join(ROWS), show_default=True)
def main(data: Path, rows: str) -> None:
    torch.set_num_threads(1)
    for name in rows.split(","):
        table = [row(name, data)]
        print_table(
            f"starter, {name}: J&F in per cent on {len(sequence_names(data))} sequences", table
        )


def row(name: str, data: Path) -> dict[str, Any]:
    source = resolve_model(f"baseline:{name}" if name in ("colour", "copy") else "starter")
    model = open_model(source)
    if name == "embedding alone":
        assert isinstance(model, CorrFractal)
        model.config = without_colour(model)
    elif name == "untrained":
        assert isinstance(model, CorrFractal)
        torch.manual_seed(0)
        model = CorrFractal(model.config).eval()

    started = time.process_time()
    benchmark = Davis(data, "2017")
    objects: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        for sequence in sequence_names(data):
            result = benchmark.evaluate(sequence, Path(folder), source, model, InferenceConfig())
            objects += result.scores.objects
            last = objects[-1]
            print(f"{name}: {last.name} {50 * (last.J.mean + last.F.mean):.1f}", flush=True)
    J = 100 * statistics.mean(each.J.mean for each in objects)
    F = 100 * statistics.mean(each.F.mean for each in objects)
    by_object = {each.name: 50 * (each.J.mean + each.F.mean) for each in objects}
    return {
        "J&F": (J + F) / 2,
        "J": J,
        "F": F,
        **by_object,
        "CPU min": (time.process_time() - started) / 60,
    }


def without_colour(model: CorrFractal) -> CorrFractalConfig:
    """The model's configuration without the cosine of Lab patches."""
    correspondence = model.config.correspondence
    similarity = replace(correspondence.similarity, colour_temperature=None)
    return replace(model.config, correspondence=replace(correspondence, similarity=similarity))


if __name__ == "__main__":
    main()
