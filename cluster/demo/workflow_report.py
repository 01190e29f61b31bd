"""The report of a workflow, one self-contained HTML file: scores beside the baselines' scores,
pseudo-labels, loss curves, masks over frames, and lineage."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from cluster.config import EvaluationConfig
from corrfractal.common.report_page import (
    Cell,
    Figure,
    Picture,
    Section,
    Share,
    Table,
    write_report,
)
from corrfractal.files import storage
from corrfractal.shards.clip import colorize, decode_clip, read_members
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest
from inference.benchmarks.davis import DavisSummary
from inference.datasets.davis_files import open_sequence, sequence_names
from inference.prompts.mask_images import read_mask
from inference.reports.pictures import finish_plot, object_table, overlay_strip
from pipeline.report.build_result import PrecomputeResult
from training.run import TrainingResult

# Rows of the table of scores, by the names in ``WorkflowResult.scores``.
DISPLAY_NAMES = {
    "model": "trained model",
    "starter": "starter model",
    "colour": "colour alone",
    "untrained": "untrained network",
    "copy": "copy the first mask",
}
LABEL_CLIPS = 3
STRIP_FRAMES = 5


def write_workflow_report(
    path: storage.Location,
    out: storage.Location,
    shards: PrecomputeResult,
    training: TrainingResult,
    scores: dict[str, DavisSummary],
    evaluation: EvaluationConfig | None,
) -> None:
    """Write the report of a workflow.

    Args:
        path: HTML file to write.
        out: folder of the workflow, local or a URI.
        shards, training, scores: results of its stages.
        evaluation: the benchmark of ``scores``; None: the report has no scores and no masks.
    """
    sections = []
    if evaluation is not None:
        sections.append(_scores(scores))
    sections.append(_labels(storage.join(out, "shards"), shards))
    sections.append(_training(storage.join(out, "training"), training))
    if evaluation is not None:
        sections += _masks(scores["model"], Path(evaluation.data))
    sections.append(_lineage(shards, training))
    write_report(
        path,
        "CorrFractal workflow",
        sections,
        lead=f"{training.model.uri}, {training.steps} steps.",
    )


def _scores(scores: dict[str, DavisSummary]) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for name, summary in scores.items():
        shares = (summary.JF, summary.mean("J"), summary.mean("F"))
        rows.append((DISPLAY_NAMES[name], *(Share(value=share) for share in shares)))
    return Section(
        title="Label propagation",
        text=(
            "The first mask is given, all others are predicted. J is region similarity, F contour "
            "accuracy."
        ),
        table=Table(header=("", "J&F %", "J %", "F %"), rows=tuple(rows)),
    )


def _labels(folder: str, shards: PrecomputeResult) -> Section:
    figures = (
        Figure(label="videos sampled", value=f"{shards.sampled} of {shards.sources}"),
        Figure(label="clips", value=str(shards.samples)),
        Figure(label="quarantined", value=str(shards.quarantined)),
        Figure(label="rejected", value=str(shards.rejected)),
    )
    clips = Index(folder, load_manifest(folder)).clips
    count = min(LABEL_CLIPS, len(clips))

    # One row of pictures per clip: three frames, then their labels.
    rows = []
    for position in np.linspace(0, len(clips) - 1, count).astype(int):
        sample = clips.ref(position)
        location = storage.join(folder, sample.shard)
        members = read_members(storage.read_part(location, sample.offset, sample.length))
        clip = decode_clip(members, views=(0,))
        ts = np.linspace(0, len(clip.frames) - 1, 3).astype(int)
        rows.append(np.concatenate([*clip.frames[ts], *colorize(clip.labels[0][ts])], axis=1))
    picture = Picture(
        data=_png(np.concatenate(rows)), caption="Frames of three clips, and their pseudo-labels."
    )
    return Section(title="Pseudo-labels", figures=figures, pictures=(picture,))


def _training(folder: str, training: TrainingResult) -> Section:
    metrics = training.metrics
    figures = (
        Figure(label="wrong pixels", value=f"{metrics['error']:.1%}"),
        Figure(label="copying labels in place", value=f"{metrics['copy_error']:.1%}"),
        Figure(label="samples/s", value=f"{metrics['samples_per_second']:.2f}"),
        Figure(label="waiting for data", value=f"{metrics['data_wait']:.1%}"),
    )
    metrics_lines = storage.read(storage.join(folder, "metrics.jsonl")).splitlines()
    lines = [json.loads(line) for line in metrics_lines]
    pictures = storage.join(folder, "pictures")
    last = [name for name in storage.listing(pictures)[0] if name.endswith(".png")][-1]
    reconstructions = Picture(
        data=storage.read(storage.join(pictures, last)),
        caption=(
            "Reconstructions of each module, and the embedding's principal components as colours."
        ),
    )
    return Section(title="Training", figures=figures, pictures=(_curves(lines), reconstructions))


def _masks(summary: DavisSummary, data: Path) -> list[Section]:
    """One strip per sequence, predicted masks above the true ones; then the table of objects."""
    out = summary.out
    assert out is not None, "an evaluation of this workflow has a folder"
    sections = []
    for name in sequence_names(data):
        sequence = open_sequence(data, name)
        ts = [int(t) for t in np.linspace(1, len(sequence.frames) - 1, STRIP_FRAMES).round()]
        predicted = []
        true = []
        with storage.local_copy(storage.join(out, f"masks/{name}")) as masks:
            for t in ts:
                frame = sequence.frame(t)
                mask = read_mask(masks / f"{sequence.frames[t].stem}.png")
                predicted.append((frame, mask))
                true.append((frame, sequence.annotation(t)))
        strip = overlay_strip([predicted, true])
        caption = f"Predicted (above) and true (below), frames {', '.join(map(str, ts))}."
        sections.append(Section(title=name, pictures=(Picture(data=strip.data, caption=caption),)))
    sections.append(Section(title="Objects", table=object_table(summary.objects)))
    return sections


def _lineage(shards: PrecomputeResult, training: TrainingResult) -> Section:
    rows = (
        ("model", f"{training.model.uri} ({', '.join(training.model.aliases)})"),
        ("run", training.model.run_id),
        ("data set", shards.digest),
        ("MLflow store", training.tracking_uri),
        ("model file", str(training.model_file)),
    )
    return Section(title="Lineage", table=Table(header=("", ""), rows=rows))


def _curves(lines: list[dict[str, float]]) -> Picture:
    """Plot the records of ``metrics.jsonl``: losses on the left, errors on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(10.4, 2.8), dpi=150, layout="constrained")
    FigureCanvasAgg(plot)
    panels = (
        {"loss": "loss", "loss_c": "correspondence", "loss_a": "appearance"},
        {"error": "model", "copy_error": "copying"},
    )
    steps = [line["step"] for line in lines]
    for axes, names in zip(plot.subplots(1, 2), panels, strict=True):
        for name, label in names.items():
            axes.plot(steps, [line[name] for line in lines], label=label)
        axes.set(xlabel="step")
        axes.set_ylim(bottom=0)
    return finish_plot(
        plot,
        "Loss, and share of wrong pixels compared with copying the reference's labels in place.",
    )


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
