"""A pilot of the ablation (Table 3): is every rung alive?   python benchmarks/ladder.py VIDEOS DAVIS --out FOLDER

Each rung, Base, +A, +P, +B, +C, is trained for the same few hundred steps from the same seed with the slim network,
then carries the masks of the named sequences. Alive means: its loss falls below that of its first steps, and it
labels pixels better than copying the reference's labels in place. One seed and few steps: a check, not yet a proof.

``--rungs +C --quantization "n_patterns = 6, pattern_weight = 0.5"`` compares label settings instead, one a folder.
Every stage resumes; run it again to go on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import ray
from measure import print_table

from cluster.config import LADDER, WorkflowConfig, read_workflow
from corrfractal.runtime import ray_session
from corrfractal.tracker import FAST
from inference.config import InferenceConfig
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
"""


@click.command()
@click.argument("videos", type=click.Path(exists=True, path_type=Path))
@click.argument("davis", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--steps", default=200, show_default=True)
@click.option("--sequences", default="car-shadow,libby", show_default=True)
@click.option("--rungs", default=",".join(LADDER), show_default=True)
@click.option("--quantization", default="", help="Fields of the labels as TOML: pattern_weight = 0.5, ...")
def main(videos: Path, davis: Path, out: Path, steps: int, sequences: str, rungs: str, quantization: str) -> None:
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    subset = link_sequences(davis.absolute(), out / "davis", sequences.split(","))
    with ray_session(ray):
        rows = [
            rung_row(rung, read_rung(rung, videos.absolute(), out, steps, quantization), out, subset)
            for rung in rungs.split(",")
        ]
        copy = evaluate_davis(subset, out / "copy", "baseline:copy")
    rows.append({"rung": "copy the first mask", "J&F %": 100 * copy.JF})
    title = f"ladder pilot {quantization}".strip() + f": {steps} steps of 4 pairs, width 16, one seed, {sequences}"
    print_table(title, rows, Path(__file__).parent / "out")


def read_rung(rung: str, videos: Path, out: Path, steps: int, quantization: str) -> WorkflowConfig:
    path = out / f"{rung}.toml"
    text = WORKFLOW.format(rung=rung, videos=videos, out=out / rung, steps=steps, quantization=quantization)
    path.write_text(text)
    return read_workflow(path)


def rung_row(rung: str, config: WorkflowConfig, out: Path, subset: Path) -> dict[str, Any]:
    shards = out / ("shards-colour" if config.precompute.quantization.n_patterns == 0 else "shards-patterns")
    precompute(config.sources, shards, config.precompute, workers=2)
    uri = f"sqlite:///{out / 'mlflow.db'}"
    result = train(shards, Path(config.out), config.training, tracking_uri=uri, workers=2)
    scores = evaluate_davis(
        subset, out / f"{rung}-scores", str(result.model_file), InferenceConfig(tracker=FAST), workers=2
    )
    lines = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    last = lines[-max(1, len(lines) // 4) :]
    return {
        "rung": rung,
        "loss, first 10 steps": lines[0]["loss_c"],
        "loss, last quarter": mean(last, "loss_c"),
        "wrong pixels %": 100 * mean(last, "error"),
        "copying labels %": 100 * mean(last, "copy_error"),
        "J&F %": 100 * scores.JF,
        "s per frame": scores.seconds_per_frame,
    }


def mean(lines: list[dict[str, float]], name: str) -> float:
    return float(np.mean([line[name] for line in lines]))


def link_sequences(davis: Path, out: Path, names: list[str]) -> Path:
    """A data set of a few sequences, by links."""
    for kind in ("JPEGImages", "Annotations"):
        for name in names:
            link = out / kind / "480p" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(davis / kind / "480p" / name)
    listing = out / "ImageSets" / "2017" / "val.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("\n".join(names) + "\n")
    return out


if __name__ == "__main__":
    main()
