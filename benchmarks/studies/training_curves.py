"""What more data, more steps and other objectives buy: J&F of short trainings on the development
sequences.

    python benchmarks/studies/training_curves.py VIDEOS MORE DAVIS TRAIN --out FOLDER
        [--parts clips,steps,variants,similarity] [--seeds 0,1] [--videos 5,10,20,30,60]
        [--steps 50,100,200,400] [--variants 'Lab input;...']

VIDEOS and MORE are folders of videos to learn from, the second for the largest set only. DAVIS and
TRAIN are the development sequences (``benchmarks/development.py``).

- clips: the number of videos, at the same number of steps;
- steps: the number of steps, with all of VIDEOS;
- variants: one thing changed: the network's input or width, the objective, or the pairs;
- similarity: the cosine over a temperature and <q, k> / sqrt(C), for short and long trainings.

Every network is the slim one of the starter model (one affinity at one density, cosine, windows of
8 cells), 256 x 256 clips, crops of 128, 8 pairs a step. It propagates the first ``--frames`` frames
of every sequence, every fourth one, once by its embedding alone and once beside colour, with the
starter's settings of test time. Results are kept in the folder: seeds can be trained in parallel
and combined by a last call with all of them. FOLDER/curves.png plots the first two parts.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt
import torch
from learning import scores, small_set
from objectives import (
    step_with_negatives,
    step_with_views,
    warped_step,
    warped_step_with_negatives,
)

from corrfractal import CorrFractal
from corrfractal.network.attention import Similarity
from corrfractal.network.tracker import TrackerConfig
from corrfractal.shards.clip import Clip
from inference.load import open_model, resolve_model
from pipeline.config import ClipConfig, PipelineConfig
from pipeline.run import precompute
from training.config import TrainingConfig, configuration, with_settings
from training.data.batches import Batches
from training.data.cache import ShardFiles
from training.data.reading import Batch, BatchReader
from training.data.samples import Sample
from training.step import train_step

sys.path.insert(0, str(Path(__file__).parents[1]))
from development import Scores, compare, sequence_scores
from measure import print_table

USUAL_VIDEOS = 30
USUAL_STEPS = 200
VIEWS = 3
# Refusing shards would compare other sets than those that a row names.
SETTINGS = ("min_label_entropy=0.0", "min_label_change=0.0", "max_label_change=1.0")
ALONE = Similarity(kind="cosine", test_temperature=0.02)
BESIDE = Similarity(kind="cosine", test_temperature=0.05, colour_temperature=0.0003)

# The first of these results are older than certainties.
EQUAL_VOTES = TrackerConfig(weigh_by_certainty=False)

Step = Callable[[CorrFractal, torch.optim.Optimizer, Batch, int, int, TrainingConfig], Any]


@dataclass(frozen=True)
class Run:
    """A training: what it is called, what it learns from, and how."""

    name: str
    videos: int = USUAL_VIDEOS
    steps: int = USUAL_STEPS
    settings: tuple[str, ...] = ()
    step: Step = train_step
    alone: Similarity = ALONE
    fps: tuple[float, ...] = (12.0,)
    """Frames a second of the clips: the run in as many equal parts."""
    all_views: bool = False
    """Labels are those of all views, for ``step_with_views``."""


USUAL = Run(f"{USUAL_VIDEOS} videos")
LAB = ('network.bottleneck="lab"', "channel_dropout=1.0")
VARIANTS = {
    run.name: run
    for run in (
        Run("untrained", steps=0),
        Run("Lab input", settings=LAB),
        Run("width 24", settings=("network.width=24",)),
        Run("half warped pairs", step=warped_step),
        Run("negatives from other videos", step=step_with_negatives),
        Run("Lab, warps and negatives", settings=LAB, step=warped_step_with_negatives),
        Run("three views at once", step=step_with_views, all_views=True),
        Run("gaps of 1/12, 1/6, 1/3 s", fps=(12.0, 6.0, 3.0)),
    )
}


@click.command()
@click.argument("videos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("more", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("davis", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("train", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--parts", default="clips,steps,variants", show_default=True)
@click.option("--seeds", default="0,1", show_default=True)
@click.option("--videos", "video_counts", default="5,10,20,30,60", show_default=True)
@click.option("--steps", "step_counts", default="50,100,200,400", show_default=True)
@click.option("--variants", "chosen", default=";".join(VARIANTS), help="By name; split by ';'.")
@click.option("--frames", default=8, show_default=True)
def main(
    videos: Path,
    more: Path,
    davis: Path,
    train: Path,
    out: Path,
    parts: str,
    seeds: str,
    video_counts: str,
    step_counts: str,
    chosen: str,
    frames: int,
) -> None:
    torch.set_num_threads(1)
    sets = [small_set(data, out / data.name, frames, stride=4) for data in (davis, train)]
    sources = [*sorted(videos.iterdir()), *sorted(more.iterdir())]
    study = Study(out, sources, sets, [int(seed) for seed in seeds.split(",")])

    colour = study.kept("colour", lambda: {"beside": study.jf(open_colour())})["beside"]
    counts = {"clips": numbers(video_counts), "steps": numbers(step_counts)}
    named = {
        "clips": [Run(f"{count} videos", videos=count) for count in counts["clips"]],
        "steps": [run_of_steps(count) for count in counts["steps"]],
        "variants": [USUAL, *(VARIANTS[name] for name in chosen.split(";"))],
        "similarity": similarities(),
    }
    tables = {}
    for part in parts.split(","):
        tables[part] = [study.row(run, colour) for run in named[part]]
        print_table(f"training curves: {part}", [line for line, _ in tables[part]])
    if {"clips", "steps"} <= set(tables):
        plot(tables, counts, statistics.mean(colour.values()), out / "curves.png")


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def run_of_steps(count: int) -> Run:
    # The usual training is a row of several tables, and has one name and one result.
    return USUAL if count == USUAL_STEPS else Run(f"{count} steps", steps=count)


def similarities() -> list[Run]:
    """Each matched by what it was trained with. The long training is twice the usual one."""
    scaled = ('network.correspondence.similarity={kind = "scaled"}',)
    runs = []
    for count in (USUAL_STEPS, 2 * USUAL_STEPS):
        runs.append(run_of_steps(count))
        runs.append(
            Run(f"inner products {count}", steps=count, settings=scaled, alone=Similarity())
        )
    return runs


class Study:
    """Trainings whose results are kept in a folder."""

    def __init__(
        self, out: Path, sources: Sequence[Path], sets: Sequence[Path], seeds: Sequence[int]
    ) -> None:
        self._out = out
        self._sources = sources
        self._sets = sets
        self._seeds = seeds

    def row(self, run: Run, colour: dict[str, float]) -> tuple[dict[str, Any], list[Any]]:
        """A line of the table, and the results of each seed."""
        found = []
        for seed in self._seeds:
            name = re.sub("[^A-Za-z0-9]+", "-", f"{run.name} {seed}")
            found.append(self.kept(name, partial(self._train_and_score, run, seed)))
        alone = [statistics.mean(each["alone"].values()) for each in found]
        beside = [statistics.mean(each["beside"].values()) for each in found]
        mean = {key: statistics.mean(each["beside"][key] for each in found) for key in colour}
        gain = compare(keyed(mean), keyed(colour))
        line = {
            "trained": run.name,
            "steps": run.steps,
            "CPU min": f"{statistics.mean(each['minutes'] for each in found):.1f}",
            "alone": f"{statistics.mean(alone):.1f}",
            "beside colour": f"{statistics.mean(beside):.1f}",
            "of each seed": ", ".join(
                f"{a:.1f} {b:.1f}" for a, b in zip(alone, beside, strict=True)
            ),
            "over colour": f"{gain.mean:+.1f} ± {gain.error:.1f}",
            "halves": ", ".join(f"{half:+.1f}" for half in gain.halves),
        }
        return line, found

    def kept(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A result from the folder, or of ``work``, which is then written there."""
        path = self._out / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(work()))
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    def jf(self, model: Any) -> dict[str, float]:
        """J&F of every sequence, in per cent."""
        found: dict[str, float] = {}
        for data in self._sets:
            measured = scores(model, data, EQUAL_VOTES)
            objects = {
                name: value for name, value in measured.items() if name not in ("J&F", "J", "F")
            }
            per_object = {
                name: {"J": value / 100, "F": value / 100} for name, value in objects.items()
            }
            for sequence, value in sequence_scores(per_object).items():
                found[f"{data.name}/{sequence}"] = value
        return found

    def _train_and_score(self, run: Run, seed: int) -> dict[str, Any]:
        recipe = with_settings(
            configuration("base", "cpu"), SETTINGS + run.settings, max(1, run.steps)
        )
        config = replace(recipe, seed=seed)
        torch.manual_seed(seed)
        model = CorrFractal(config.network).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        parts = [self._shards(run.videos, fps) for fps in run.fps]
        started = time.process_time()
        for step, batch in enumerate(batches(run, parts, config)):
            run.step(model, optimizer, batch, step, run.steps, config)
        minutes = (time.process_time() - started) / 60

        model.eval()
        result: dict[str, Any] = {"minutes": minutes}
        for name, similarity in (("alone", run.alone), ("beside", BESIDE)):
            correspondence = replace(model.config.correspondence, similarity=similarity)
            model.config = replace(model.config, correspondence=correspondence)
            result[name] = self.jf(model)
        return result

    def _shards(self, count: int, fps: float) -> Path:
        """Shards of the first videos. Build them before seeds are trained in parallel."""
        folder = self._out / (f"shards-{count}" if fps == 12 else f"shards-{count}-at-{fps:g}")
        if not (folder / "manifest.json").exists():
            config = PipelineConfig(clip=ClipConfig(fps=fps, hop=4), views=VIEWS)
            precompute([str(path) for path in self._sources[:count]], folder, config)
        return folder


class OneView(BatchReader):
    """Reads a certain view of every sample, whatever was drawn."""

    def __init__(self, shards: Path, config: TrainingConfig, files: ShardFiles, view: int) -> None:
        super().__init__(shards, config, files)
        self._view = view

    def _read(self, sample: Sample, indices: tuple[int, ...], view: int) -> Clip:
        return super()._read(sample, indices, self._view)


def batches(run: Run, parts: Sequence[Path], config: TrainingConfig) -> Iterator[Batch]:
    """Batches of all steps of a run, from the shards of each of its parts in turn."""
    ends = [run.steps * (k + 1) // len(parts) for k in range(len(parts))]
    for shards, first, end in zip(parts, [0, *ends], ends, strict=False):
        if not run.all_views:
            yield from Batches(shards, config).iterate(first, end)
            continue
        views = []
        for view in range(VIEWS):
            of_view = Batches(shards, config)
            of_view._reader = OneView(shards, config, of_view.files, view)
            views.append(of_view.iterate(first, end))
        for same in zip(*views, strict=True):
            labels = torch.stack([batch.labels for batch in same], dim=1)
            yield replace(same[0], labels=labels)


def keyed(values: dict[str, float]) -> Scores:
    """As ``development.compare`` takes them."""
    jf = {(key.partition("/")[0], key.partition("/")[2]): value for key, value in values.items()}
    return Scores(jf=jf, seconds=0.0)


def open_colour() -> Any:
    return open_model(resolve_model("baseline:colour"))


def plot(
    tables: dict[str, list[tuple[dict[str, Any], list[Any]]]],
    counts_of: dict[str, list[int]],
    colour: float,
    to: Path,
) -> None:
    """Both curves: each seed a point, the mean a line."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, (part, counts) in zip(axes, counts_of.items(), strict=True):
        for how, shown in (("alone", "embedding alone"), ("beside", "beside colour")):
            seeds = [
                [statistics.mean(each[how].values()) for each in found] for _, found in tables[part]
            ]
            (line,) = axis.plot(counts, [statistics.mean(each) for each in seeds], label=shown)
            for x, y in _points(counts, seeds):
                axis.plot(x, y, "o", color=line.get_color(), markersize=4)
        axis.axhline(colour, color="grey", linestyle="--", label="colour")
        axis.set_xscale("log")
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.minorticks_off()
        axis.set_xlabel("videos" if part == "clips" else part)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("J&F, 37 sequences, %")
    axes[1].legend(loc="center")
    figure.savefig(to, dpi=150)


def _points(counts: Sequence[int], seeds: list[list[float]]) -> Iterator[tuple[int, float]]:
    for count, each in zip(counts, seeds, strict=True):
        for value in each:
            yield count, value


if __name__ == "__main__":
    main()
