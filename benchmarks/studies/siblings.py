"""Learning from our pseudo-labels compared with the targets of related methods, all else equal.

    python benchmarks/studies/siblings.py VIDEOS DAVIS --out FOLDER [--steps 200] [--seeds 0,1]
        [--targets labels,...]

Videos, clips, network, affinity, batches and steps are the same. What differs is the target that
the affinity transfers from the reference frame and that is compared in the target frame:

- labels: this project's pseudo-labels, from Walsh-Hadamard patterns and ab (cross-entropy);
- labels-lab: the same labels; the network sees Lab with a or b dropped, as in ``lab``;
- colours: labels from colour alone, as in CorrFlow (cross-entropy);
- lab: colours, as in MAST: one of a and b is dropped from the input and regressed, at 1/4 of the
  frame's size (Huber loss).

Each network propagates the masks of the first ``--frames`` frames of each sequence with the same
tracker, once by its embedding alone and once together with Lab patches. Frames are matched at 1/6
of their size, in windows of 48 pixels. The last rows are the baselines: colour alone, the
untrained network, and the copied first mask. Results are kept in the folder, so seeds can be
trained in parallel and combined by a last call with all of them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from learning import scores, small_set

from corrfractal import CorrFractal
from corrfractal.labels.color import lab_for_network
from corrfractal.network.attention import Similarity
from corrfractal.network.correspondence import grid, resize_embedding, resize_labels
from inference.load import open_model, resolve_model
from pipeline.config import ClipConfig, PipelineConfig
from pipeline.run import precompute
from training.config import TrainingConfig, configuration, with_settings
from training.data.batches import Batches
from training.data.reading import Batch
from training.step import learning_rate, train_step

sys.path.insert(0, str(Path(__file__).parents[1]))
from measure import print_table

TARGETS = ("labels", "labels-lab", "colours", "lab")
SETTINGS = (
    "network.stem_stride=2",
    'network.appearance="off"',
    "network.correspondence.multi_density=false",
    'network.correspondence.similarity.kind="cosine"',
    "learning_rate=2e-3",
    "batch_size=8",
)
MATCHED: dict[str, Any] = {"density_means": (6.0, 12.0), "radius": 8}
ALONE = Similarity(kind="cosine", test_temperature=0.02)
WITH_COLOUR = Similarity(kind="cosine", test_temperature=0.05, colour_temperature=0.0003)


@click.command()
@click.argument("videos", type=click.Path(exists=True, path_type=Path))
@click.argument("davis", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--steps", default=200, show_default=True)
@click.option("--seeds", default="0,1", show_default=True)
@click.option("--targets", default=",".join(TARGETS), show_default=True)
@click.option("--frames", default=20, show_default=True)
def main(
    videos: Path, davis: Path, out: Path, steps: int, seeds: str, targets: str, frames: int
) -> None:
    torch.set_num_threads(1)
    small = small_set(davis, out / "davis", frames)
    rows: list[dict[str, Any]] = []
    for target in targets.split(","):
        shards = build_shards(videos, out, target)
        for seed in map(int, seeds.split(",")):
            rows += cached(
                out / f"{target}-{seed}.json",
                partial(train_and_score, target, shards, small, steps, seed),
            )
    rows += cached(out / "baselines.json", partial(score_baselines, small))
    print_table(
        f"siblings: {steps} steps of 8 pairs, the first {frames} frames of each sequence", rows
    )


def settings(steps: int, seed: int) -> TrainingConfig:
    return replace(with_settings(configuration("paper", "cpu"), SETTINGS, steps), seed=seed)


def build_shards(videos: Path, out: Path, target: str) -> Path:
    config = PipelineConfig(clip=ClipConfig(fps=12.0, hop=4), views=3)
    if target == "colours":
        config = replace(config, quantization=replace(config.quantization, n_patterns=0))
    folder = out / f"shards-{'colours' if target == 'colours' else 'labels'}"
    precompute([str(videos)], folder, config)
    return folder


def cached(path: Path, work: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows from a file, or from ``work``, which are then written to it."""
    if not path.exists():
        path.write_text(json.dumps(work()))
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    return rows


def train_and_score(
    target: str, shards: Path, davis: Path, steps: int, seed: int
) -> list[dict[str, Any]]:
    """Train a network and score it."""
    config = settings(steps, seed)
    if target.endswith("lab"):
        config = replace(
            config, channel_dropout=1.0, network=replace(config.network, bottleneck="lab")
        )
    torch.manual_seed(seed)
    model = CorrFractal(config.network).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    started = time.process_time()
    for step, batch in enumerate(Batches(shards, config).iterate(0, steps)):
        if target == "lab":
            lab_step(model, optimizer, batch, step, steps, config)
        else:
            train_step(model, optimizer, batch, step, steps, config)
    return score_matchings(
        f"{target}, seed {seed}", model.eval(), davis, (time.process_time() - started) / 60
    )


def score_baselines(davis: Path) -> list[dict[str, Any]]:
    """Score the untrained network, colour alone, and the copied first mask."""
    torch.manual_seed(0)
    rows = score_matchings("untrained", CorrFractal(settings(1, 0).network).eval(), davis, 0.0)
    colour, copy = (open_model(resolve_model(f"baseline:{name}")) for name in ("colour", "copy"))
    assert isinstance(colour, CorrFractal)
    set_similarity(colour, colour.config.correspondence.similarity)
    named = (("colour", colour), ("copy", copy))
    return rows + [
        {"trained on": "-", "matched by": name, "CPU min": 0.0, **scores(each, davis)}
        for name, each in named
    ]


def lab_step(
    model: CorrFractal,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    total: int,
    config: TrainingConfig,
) -> None:
    """A step like ``train_step`` that regresses the dropped channel instead of labels."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, total, config)
    images = batch.frames.flatten(0, 1)
    size = grid(images, 4)
    f = resize_embedding(
        model.embed(images, batch.keep.repeat_interleave(2, dim=0)), size
    ).unflatten(0, (-1, 2))
    lab = resize_labels(lab_for_network(images.float() / 255), size).unflatten(0, (-1, 2))
    carried = model.in_training.similarity.attend(
        f[:, 1], f[:, :1], lab[:, :1], config.network.correspondence.radius
    )
    dropped = batch.keep == 0
    optimizer.zero_grad(set_to_none=True)
    F.smooth_l1_loss(20 * carried[dropped], 20 * lab[:, 1][dropped]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_gradient)
    optimizer.step()


def score_matchings(name: str, model: CorrFractal, davis: Path, cpu: float) -> list[dict[str, Any]]:
    """One row for each similarity by which frames are matched."""
    rows = []
    for how, similarity in (("embedding", ALONE), ("embedding and colour", WITH_COLOUR)):
        set_similarity(model, similarity)
        rows.append({"trained on": name, "matched by": how, "CPU min": cpu, **scores(model, davis)})
    return rows


def set_similarity(model: CorrFractal, similarity: Similarity) -> None:
    correspondence = replace(model.config.correspondence, **MATCHED, similarity=similarity)
    model.config = replace(model.config, correspondence=correspondence)


if __name__ == "__main__":
    main()
