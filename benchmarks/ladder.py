"""A pilot of the ablation (Table 3): is every rung alive?   python benchmarks/ladder.py VIDEOS DAVIS --out FOLDER

Each rung, Base, +A, +P, +B, +C, is trained for the same few hundred steps from the same seeds with the slim network,
and carries the masks of the named sequences' first frames every so many steps: J&F over training, of all rungs in one
picture, FOLDER/curves.png. Alive means: its loss falls below that of its first steps, and it labels pixels better than
copying the reference's labels in place. Few steps and short sequences: a check, not yet a proof.

``--rungs +C --quantization "n_patterns = 6, pattern_weight = 0.5"`` compares label settings instead, one a folder.
Every stage resumes; run it again to go on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt
import numpy as np
import ray
from measure import print_table

from cluster.config import LADDER, WorkflowConfig, read_workflow
from corrfractal.runtime import ray_session
from inference.run import evaluate_davis
from pipeline.run import precompute
from training.run import train

WORKFLOW = """
rung = "{rung}"
sources = ["{videos}"]
out = "{out}"
[precompute]
quantization = {{ {quantization} }}
[training]
profile = "cpu"
steps = {steps}
crop = 96
learning_rate = 2e-3
log_every = 10
checkpoint_every = 50
seed = {seed}
evaluate_on = "{davis}"
evaluate_every = {every}
"""


@click.command()
@click.argument("videos", type=click.Path(exists=True, path_type=Path))
@click.argument("davis", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--steps", default=200, show_default=True)
@click.option("--seeds", default="0,1", show_default=True)
@click.option("--every", default=50, show_default=True, help="Steps between two scores.")
@click.option("--sequences", default="car-shadow,libby", show_default=True)
@click.option("--frames", default=16, show_default=True, help="Of each sequence.")
@click.option("--rungs", default=",".join(LADDER), show_default=True)
@click.option("--quantization", default="", help="Fields of the labels as TOML: pattern_weight = 0.5, ...")
def main(
    videos: Path,
    davis: Path,
    out: Path,
    steps: int,
    seeds: str,
    every: int,
    sequences: str,
    frames: int,
    rungs: str,
    quantization: str,
) -> None:
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    subset = link_sequences(davis.absolute(), out / "davis", sequences.split(","), frames)
    copy = 100 * evaluate_davis(subset, out / "copy", "baseline:copy").JF
    rows: list[dict[str, Any]] = []
    curves: dict[str, list[list[dict[str, float]]]] = {}
    with ray_session(ray):
        for rung in rungs.split(","):
            runs = []
            for seed in map(int, seeds.split(",")):
                values: dict[str, Any] = {"videos": videos.absolute(), "davis": subset, "out": out / f"{rung}-{seed}"}
                values |= {"rung": rung, "steps": steps, "every": every, "seed": seed, "quantization": quantization}
                path = out / f"{rung}-{seed}.toml"
                path.write_text(WORKFLOW.format(**values))
                runs.append(logged(read_workflow(path), out))
            rows.append(rung_row(rung, runs))
            curves[rung] = runs
    draw(curves, copy, out / "curves.png")
    rows.append({"rung": "copy the first mask", "J&F %": copy})
    title = f"ladder pilot {quantization}".strip() + f": {steps} steps of 4 pairs, width 16, seeds {seeds}, "
    print_table(f"{title}{frames} frames of {sequences}", rows, Path(__file__).parent / "out")


def logged(config: WorkflowConfig, out: Path) -> list[dict[str, float]]:
    """Train a rung from one seed; returns the lines of its metrics."""
    shards = out / ("shards-colour" if config.precompute.quantization.n_patterns == 0 else "shards-patterns")
    precompute(config.sources, shards, config.precompute, workers=2)
    train(shards, Path(config.out), config.training, tracking_uri=f"sqlite:///{out / 'mlflow.db'}", workers=2)
    return [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]


def rung_row(rung: str, runs: list[list[dict[str, float]]]) -> dict[str, Any]:
    """Means over the seeds; J&F of each as well."""
    last = [line for lines in runs for line in lines[-max(1, len(lines) // 4) :]]
    return {
        "rung": rung,
        "loss, first 10 steps": mean([lines[0] for lines in runs], "loss_c"),
        "loss, last quarter": mean(last, "loss_c"),
        "wrong pixels %": 100 * mean(last, "error"),
        "copying labels %": 100 * mean(last, "copy_error"),
        "J&F %": 100 * mean([lines[-1] for lines in runs], "JF"),
        "each seed": ", ".join(f"{100 * lines[-1]['JF']:.1f}" for lines in runs),
    }


def draw(curves: dict[str, list[list[dict[str, float]]]], copy: float, path: Path) -> None:
    """J&F over steps: the mean of the seeds as a line, each seed as a dot."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for rung, runs in curves.items():
        scored = [{int(line["step"]): 100 * line["JF"] for line in lines if "JF" in line} for lines in runs]
        (line,) = axes.plot(scored[0], [float(np.mean([s[at] for s in scored])) for at in scored[0]], label=rung)
        for each in scored:
            axes.plot(each, each.values(), "o", color=line.get_color(), markersize=3, alpha=0.6)
    axes.axhline(copy, color="grey", linestyle=":", label="copy the first mask")
    axes.set(xlabel="steps", ylabel="J&F, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=140)


def mean(lines: list[dict[str, float]], name: str) -> float:
    return float(np.mean([line[name] for line in lines]))


def link_sequences(davis: Path, out: Path, names: list[str], frames: int) -> Path:
    """A data set of the first frames of a few sequences, by links."""
    for kind in ("JPEGImages", "Annotations"):
        for name in names:
            folder = out / kind / "480p" / name
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted((davis / kind / "480p" / name).iterdir())[:frames]:
                if not (folder / file.name).exists():
                    (folder / file.name).symlink_to(file)
    listing = out / "ImageSets" / "2017" / "val.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("\n".join(names) + "\n")
    return out


if __name__ == "__main__":
    main()
