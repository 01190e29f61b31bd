"""The paper's ablation (Table 3) and its open readings, in miniature.

    python benchmarks/studies/ladder.py VIDEOS DAVIS --out FOLDER [--part ladder,readings,tests]
        [--seeds 0,1]

Trains the slim network with the functions of the commands, from the same seeds and for the same
number of steps. Scores the first ``--frames`` frames of each sequence of DAVIS, every second one,
at half their size, with three densities:

- ladder: Base, +A, +P, +B, +C, scored every ``--every`` steps; FOLDER/curves.png plots J&F, J and F
  over training;
- readings: +C with one detail of the paper read differently in training;
- tests: the networks of +C with one detail read differently at test time.

Similarity is the cosine over 0.07 in training and 0.02 at test time, unless a reading changes it.
Existing runs are reused, so seeds can be trained in parallel and combined by a last call with all
of them.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt
from learning import scores, small_set

from cluster.config import LADDER, read_workflow
from corrfractal import CorrFractal
from corrfractal.network.tracker import FAST
from corrfractal.registry.store import sqlite_uri
from corrfractal.runtime.ray_session import ray_session
from inference.load import open_model, resolve_model
from pipeline.run import precompute
from training.config import with_settings
from training.run import train

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import print_table

WORKFLOW = """
rung = "{rung}"
sources = ["{videos}"]
out = "{out}"
[precompute]
quantization = {{ {labels} }}
[training]
preset = "paper"
profile = "cpu"
steps = {steps}
crop = 96
learning_rate = 2e-3
seed = {seed}
evaluate_on = "{davis}"
evaluate_every = {every}
[training.network]
stem_stride = 2
[training.network.correspondence.similarity]
kind = "cosine"
test_temperature = 0.02
"""
READINGS: dict[str, tuple[str, ...]] = {
    "appearance time-reversed": ('network.appearance="time_reversed"',),
    "without appearance": ('network.appearance="off"',),
    "<q, k> / sqrt(C) instead of the cosine": (
        'network.correspondence.similarity={kind = "scaled"}',
    ),
    "no channel ever dropped": ("channel_dropout=0.0",),
    "Lab, a or b dropped": ('network.bottleneck="lab"',),
    "all chains at one resolution in training": (
        "network.correspondence.refinement_density=4.0",
        "network.correspondence.density_means=[4.0, 4.1]",
        "network.correspondence.density_sigma=0.01",
    ),
}
# Readings of the labels; benchmarks/labels.py measures more of them.
LABELS = {"3 patterns instead of 6": "n_patterns = 3"}
# Readings at test time: fields of the correspondence module, and of the tracker.
TESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "unchanged": ({}, {}),
    "one affinity per chain": ({"steps": 1}, {}),
    "Chain_H of 3 x 3": ({"full_radius": 1}, {}),
    "Chain_H of 7 x 7": ({"full_radius": 3}, {}),
    "soft labels fed back": ({}, {"soft": True}),
    "one affinity at 1/4": ({"multi_density": False, "density_means": (4.0, 8.0)}, {}),
    "R grid of 1/2": ({}, {"refinement_density": 2.0}),
}


@click.command()
@click.argument("videos", type=click.Path(exists=True, path_type=Path))
@click.argument("davis", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--part", "parts", default="ladder,readings,tests", show_default=True)
@click.option("--steps", default=240, show_default=True)
@click.option("--every", default=80, show_default=True, help="Number of steps between two scores.")
@click.option("--seeds", default="0,1", show_default=True)
@click.option(
    "--frames",
    default=15,
    show_default=True,
    help="Number of frames of each sequence, at 12 per second.",
)
def main(
    videos: Path,
    davis: Path,
    out: Path,
    parts: str,
    steps: int,
    every: int,
    seeds: str,
    frames: int,
) -> None:
    out = out.absolute()
    small = small_set(davis.absolute(), out / "davis", frames, stride=2, shrink=2)
    base = {"videos": videos.absolute(), "davis": small, "steps": steps, "every": every}
    title = f"{steps} steps of 4 pairs, seeds {seeds}"
    with ray_session():

        def runs(
            name: str, rung: str = "+C", settings: tuple[str, ...] = (), labels: str = ""
        ) -> list[Path]:
            values = base | {"rung": rung, "labels": labels}
            return [
                train_run(out, f"{name}-{seed}", values | {"seed": seed}, settings)
                for seed in seeds.split(",")
            ]

        if "ladder" in parts:
            ladder = {rung: [logged(run) for run in runs(rung, rung)] for rung in LADDER}
            networks = {
                name: open_model(resolve_model(f"baseline:{name}"))
                for name in ("untrained", "copy")
            }
            baselines = {
                name: scores(network, small, FAST)["J&F"] for name, network in networks.items()
            }
            draw(ladder, baselines["copy"], out / "curves.png")
            rows = [row(rung, logs) for rung, logs in ladder.items()]
            rows += [{"": name, "J&F": value} for name, value in baselines.items()]
            print_table(f"ladder: {title}", rows)
        if "readings" in parts:
            readings = {"+C": runs("+C")}
            readings |= {
                name: runs(name.replace("/", "over"), settings=each)
                for name, each in READINGS.items()
            }
            readings |= {name: runs(name, labels=each) for name, each in LABELS.items()}
            rows = [row(name, [logged(run) for run in each]) for name, each in readings.items()]
            print_table(f"readings: {title}", rows)
        if "tests" in parts:
            trained = [CorrFractal.load(run / "model.safetensors") for run in runs("+C")]
            without = [CorrFractal.load(run / "model.safetensors") for run in runs("+B", "+B")]
            rows = [test_row(name, trained, small, *TESTS[name]) for name in TESTS]
            rows.append(
                test_row(
                    "chains at test time only (+B)", without, small, {"multi_density": True}, {}
                )
            )
            print_table(f"tests: {title}", rows)


def train_run(out: Path, name: str, values: dict[str, Any], settings: tuple[str, ...]) -> Path:
    """Build the shards of one run and train it, or resume; return its folder."""
    path = out / f"{name}.toml"
    path.write_text(WORKFLOW.format(**values, out=out / name))
    config = read_workflow(path)
    shards = out / f"shards {values['labels'] or config.precompute.quantization.n_patterns}"
    precompute(config.sources, shards, config.precompute, workers=1)
    training = with_settings(config.training, settings)
    train(
        shards, Path(config.out), training, tracking_uri=sqlite_uri(out / f"{name}.db"), workers=1
    )
    return Path(config.out)


def logged(run: Path) -> list[dict[str, float]]:
    """The records of a run's ``metrics.jsonl``."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def row(name: str, runs: list[list[dict[str, float]]]) -> dict[str, Any]:
    """Means over the seeds, and J&F of each seed; errors over the last quarter of training."""
    last = [line for lines in runs for line in lines[-max(1, len(lines) // 4) :]]
    error = statistics.mean(line["error"] for line in last)
    copying = statistics.mean(line["copy_error"] for line in last)
    result: dict[str, Any] = {
        "": name,
        "wrong pixels %": 100 * error,
        "error / copying": error / copying,
    }
    for title, key in (("J&F", "JF"), ("J", "J"), ("F", "F")):
        result[title] = 100 * statistics.mean(lines[-1][key] for lines in runs)
    return result | {
        "J&F of each seed": ", ".join(f"{100 * lines[-1]['JF']:.1f}" for lines in runs)
    }


def test_row(
    name: str,
    networks: list[CorrFractal],
    data: Path,
    module: dict[str, Any],
    tracker: dict[str, Any],
) -> dict[str, Any]:
    """Mean scores of networks with changed fields of their correspondence module and tracker."""
    by_seed = []
    for network in networks:
        original = network.config
        correspondence = replace(original.correspondence, **module)
        network.config = replace(original, correspondence=correspondence)
        by_seed.append(scores(network, data, replace(FAST, **tracker)))
        network.config = original
    means = {key: statistics.mean(each[key] for each in by_seed) for key in ("J&F", "J", "F")}
    each_seed = ", ".join(f"{each['J&F']:.1f}" for each in by_seed)
    return {"": name, **means, "J&F of each seed": each_seed}


def draw(ladder: dict[str, list[list[dict[str, float]]]], copy: float, path: Path) -> None:
    """Plot J&F, J and F over steps: a line for the mean of the seeds, a dot for each seed."""
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained", sharey=True)
    for axes, (title, key) in zip(panels, (("J&F", "JF"), ("J", "J"), ("F", "F")), strict=True):
        for rung, runs in ladder.items():
            scored = [
                {int(line["step"]): 100 * line[key] for line in lines if key in line}
                for lines in runs
            ]
            steps = sorted(scored[0])
            label = rung if key == "JF" else None
            means = [statistics.mean(seed[step] for seed in scored) for step in steps]
            (line,) = axes.plot(steps, means, label=label)
            for each in scored:
                axes.plot(
                    steps,
                    [each[step] for step in steps],
                    "o",
                    color=line.get_color(),
                    markersize=3,
                    alpha=0.6,
                )
        axes.set(title=title, xlabel="steps")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].axhline(copy, color="grey", linestyle=":", label="copy the first mask")
    panels[0].set_ylabel("%")
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main()
