"""What more data, more steps and other objectives buy: J&F of short trainings on the development
sequences.

    python benchmarks/studies/training_curves.py VIDEOS MORE DAVIS TRAIN --out FOLDER
        [--parts clips,steps,variants] [--seeds 0,1]

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
import numpy as np
import torch
import torch.nn.functional as F
from learning import scores, small_set
from torch import Tensor

from corrfractal import CorrFractal
from corrfractal.network.attention import Similarity
from corrfractal.network.correspondence import draw_densities, loss, reconstruct
from inference.load import open_model, resolve_model
from pipeline.config import ClipConfig, PipelineConfig
from pipeline.run import precompute
from training.config import TrainingConfig, configuration, with_settings
from training.data.batches import Batches
from training.data.order import STEP, rng
from training.data.reading import Batch
from training.step import learning_rate, train_step

sys.path.insert(0, str(Path(__file__).parents[1]))
from development import Scores, compare, sequence_scores
from measure import print_table

VIDEO_COUNTS = (5, 10, 20, 30, 60)
STEP_COUNTS = (50, 100, 200, 400)
USUAL_VIDEOS = 30
USUAL_STEPS = 200
LABELS = 16
# Refusing shards would compare other sets than those that a row names.
SETTINGS = ("min_label_entropy=0.0", "min_label_change=0.0", "max_label_change=1.0")
ALONE = Similarity(kind="cosine", test_temperature=0.02)
BESIDE = Similarity(kind="cosine", test_temperature=0.05, colour_temperature=0.0003)

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


@click.command()
@click.argument("videos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("more", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("davis", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("train", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--parts", default="clips,steps,variants", show_default=True)
@click.option("--seeds", default="0,1", show_default=True)
@click.option("--frames", default=8, show_default=True)
def main(
    videos: Path,
    more: Path,
    davis: Path,
    train: Path,
    out: Path,
    parts: str,
    seeds: str,
    frames: int,
) -> None:
    torch.set_num_threads(1)
    sets = [small_set(data, out / data.name, frames, stride=4) for data in (davis, train)]
    sources = [*sorted(videos.iterdir()), *sorted(more.iterdir())]
    study = Study(out, sources, sets, [int(seed) for seed in seeds.split(",")])

    colour = study.kept("colour", lambda: {"beside": study.jf(open_colour())})["beside"]
    named = {
        "clips": clips(),
        "steps": steps(),
        "variants": variants(),
        "similarity": similarities(),
    }
    tables = {}
    for part in parts.split(","):
        tables[part] = [study.row(run, colour) for run in named[part]]
        print_table(f"training curves: {part}", [line for line, _ in tables[part]])
    if {"clips", "steps"} <= set(tables):
        plot(tables, statistics.mean(colour.values()), out / "curves.png")


def clips() -> list[Run]:
    return [Run(f"{count} videos", videos=count) for count in VIDEO_COUNTS]


def steps() -> list[Run]:
    # The same training as of the row of 30 videos has its name, and with it its results.
    return [
        Run(f"{USUAL_VIDEOS} videos" if count == USUAL_STEPS else f"{count} steps", steps=count)
        for count in STEP_COUNTS
    ]


def variants() -> list[Run]:
    """One thing changed in the row of 30 videos, which is repeated as the first."""
    lab = ('network.bottleneck="lab"', "channel_dropout=1.0")
    return [
        Run(f"{USUAL_VIDEOS} videos"),
        Run("Lab input", settings=lab),
        Run("width 24", settings=("network.width=24",)),
        Run("half warped pairs", step=warped_step),
        Run("negatives from other videos", step=step_with_negatives),
        Run("Lab, warps and negatives", settings=lab, step=warped_step_with_negatives),
    ]


def similarities() -> list[Run]:
    """Each matched by what it was trained with. The long training is twice the usual one."""
    scaled = ('network.correspondence.similarity={kind = "scaled"}',)
    runs = []
    for count in (USUAL_STEPS, 2 * USUAL_STEPS):
        cosine = f"{USUAL_VIDEOS} videos" if count == USUAL_STEPS else f"{count} steps"
        runs.append(Run(cosine, steps=count))
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
            name = f"{run.name.replace(' ', '-').replace(',', '')}-{seed}"
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
            measured = scores(model, data)
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
        recipe = with_settings(configuration("base", "cpu"), SETTINGS + run.settings, run.steps)
        config = replace(recipe, seed=seed)
        torch.manual_seed(seed)
        model = CorrFractal(config.network).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
        shards = self._shards(run.videos)
        started = time.process_time()
        for step, batch in enumerate(Batches(shards, config).iterate(0, run.steps)):
            run.step(model, optimizer, batch, step, run.steps, config)
        minutes = (time.process_time() - started) / 60

        model.eval()
        result: dict[str, Any] = {"minutes": minutes}
        for name, similarity in (("alone", run.alone), ("beside", BESIDE)):
            correspondence = replace(model.config.correspondence, similarity=similarity)
            model.config = replace(model.config, correspondence=correspondence)
            result[name] = self.jf(model)
        return result

    def _shards(self, count: int) -> Path:
        """Shards of the first videos. Build them before seeds are trained in parallel."""
        folder = self._out / f"shards-{count}"
        if not (folder / "manifest.json").exists():
            config = PipelineConfig(clip=ClipConfig(fps=12.0, hop=4), views=3)
            precompute([str(path) for path in self._sources[:count]], folder, config)
        return folder


def keyed(values: dict[str, float]) -> Scores:
    """As ``development.compare`` takes them."""
    jf = {(key.partition("/")[0], key.partition("/")[2]): value for key, value in values.items()}
    return Scores(jf=jf, seconds=0.0)


def open_colour() -> Any:
    return open_model(resolve_model("baseline:colour"))


def warped_step(
    model: CorrFractal,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    total: int,
    config: TrainingConfig,
) -> None:
    """``train_step`` with the reference of every second pair replaced by a warp of its target."""
    train_step(model, optimizer, half_warped(batch, step, config), step, total, config)


def step_with_negatives(
    model: CorrFractal,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    total: int,
    config: TrainingConfig,
) -> None:
    """A step in which each target also sees the reference of another pair, mostly of another video:
    what it takes from there counts for no label."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, total, config)
    uniform = tuple(rng(config.seed, STEP, step).random(2))
    densities = draw_densities(config.network.correspondence, uniform)
    keep = batch.keep.repeat_interleave(2, dim=0)
    embeddings = model.embed(batch.frames.flatten(0, 1), keep).unflatten(0, (-1, 2))
    own = embeddings[:, :1]
    references = torch.cat((own, own.roll(1, dims=0)), dim=1)
    labels = batch.labels.long()
    carried = F.one_hot(labels[:, :1], LABELS).float().movedim(-1, 2)
    carried = torch.cat((carried, torch.zeros_like(carried)), dim=1)
    found = reconstruct(references, carried, embeddings[:, 1], densities, model.in_training)
    optimizer.zero_grad(set_to_none=True)
    loss(found, labels[:, 1]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_gradient)
    optimizer.step()


def warped_step_with_negatives(
    model: CorrFractal,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    total: int,
    config: TrainingConfig,
) -> None:
    warped = half_warped(batch, step, config)
    step_with_negatives(model, optimizer, warped, step, total, config)


def half_warped(batch: Batch, step: int, config: TrainingConfig) -> Batch:
    """Turned by up to 15 degrees, scaled by up to 1.25, moved by up to 12 pixels, with other
    brightness and contrast: correspondences are exact, and labels do not flicker."""
    draw = np.random.default_rng([config.seed, step])
    frames = batch.frames.clone()
    labels = batch.labels.clone()
    side = frames.shape[-1]
    for k in range(0, len(frames), 2):
        angle = draw.uniform(-np.pi / 12, np.pi / 12)
        scale = 1.25 ** draw.uniform(-1, 1)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = draw.uniform(-24 / side, 24 / side, (2, 1))
        theta = torch.from_numpy(np.hstack((turn, moved))).float()[None]
        grid = F.affine_grid(theta, [1, 1, side, side], align_corners=False)
        image = _sampled(frames[k, 1].float()[None], grid, "bilinear")
        contrast = draw.uniform(0.8, 1.25)
        brightness = draw.uniform(-20, 20)
        frames[k, 0] = (image * contrast + brightness).clamp(0, 255)[0].byte()
        labels[k, 0] = _sampled(labels[k, 1].float()[None, None], grid, "nearest")[0, 0].byte()
    return replace(batch, frames=frames, labels=labels)


def _sampled(x: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(x, grid, mode=mode, padding_mode="reflection", align_corners=False)


def plot(
    tables: dict[str, list[tuple[dict[str, Any], list[Any]]]], colour: float, to: Path
) -> None:
    """Both curves: each seed a point, the mean a line."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    wanted = (("clips", "videos", VIDEO_COUNTS), ("steps", "steps", STEP_COUNTS))
    for axis, (part, label, counts) in zip(axes, wanted, strict=True):
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
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("J&F, 37 sequences, %")
    axes[0].legend()
    figure.savefig(to, dpi=150)


def _points(counts: Sequence[int], seeds: list[list[float]]) -> Iterator[tuple[int, float]]:
    for count, each in zip(counts, seeds, strict=True):
        for value in each:
            yield count, value


if __name__ == "__main__":
    main()
