"""The report of a workflow: labels, loss curve, masks over frames, J&F beside the rivals. One
self-contained file."""

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
from corrfractal.shards.clip import colorize, decode_clip, read_members
from corrfractal.shards.manifest import load_manifest, sample_index
from inference.benchmarks.davis import DavisSummary
from inference.datasets.davis_files import open_sequence, sequence_names
from inference.prompts.mask_images import read_mask
from inference.reports.pictures import finish_plot, object_table, overlay_strip
from pipeline.report.build_result import PrecomputeResult
from training.run import TrainingResult

NAMES = {
    "model": "trained model",
    "starter": "starter model",
    "untrained": "untrained network",
    "copy": "copy the first mask",
}
LABEL_CLIPS = 3
STRIP_FRAMES = 5


def write_workflow_report(
    path: Path,
    out: Path,
    shards: PrecomputeResult,
    training: TrainingResult,
    scores: dict[str, DavisSummary],
    evaluation: EvaluationConfig | None,
) -> None:
    """Write ``report.html`` of a workflow whose folder is ``out``."""
    sections = [_labels(out / "shards", shards), _training(out / "training", training)]
    if evaluation is not None:
        sections = [_scores(scores), *sections, *_masks(scores, Path(evaluation.data))]
    sections.append(_lineage(shards, training))
    write_report(
        path,
        "CorrFractal workflow",
        sections,
        lead=f"{training.model.uri}, {training.steps} steps.",
    )


def _scores(scores: dict[str, DavisSummary]) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for name, evaluation in scores.items():
        shares = (evaluation.JF, evaluation.mean("J"), evaluation.mean("F"))
        rows.append((NAMES[name], *(Share(value=share) for share in shares)))
    return Section(
        title="Label propagation",
        text="The first mask is given, all others are predicted. J is region similarity, F contour accuracy.",
        table=Table(header=("", "J&F %", "J %", "F %"), rows=tuple(rows)),
    )


def _labels(folder: Path, shards: PrecomputeResult) -> Section:
    figures = (
        Figure(label="videos sampled", value=f"{shards.sampled} of {shards.sources}"),
        Figure(label="clips", value=str(shards.samples)),
        Figure(label="quarantined", value=str(shards.quarantined)),
        Figure(label="rejected", value=str(shards.rejected)),
    )
    samples = sample_index(folder, load_manifest(folder))
    chosen = [
        samples[i]
        for i in np.linspace(0, len(samples) - 1, min(LABEL_CLIPS, len(samples))).astype(int)
    ]
    rows = []
    for sample in chosen:
        with (folder / sample.shard).open("rb") as file:
            file.seek(sample.offset)
            clip = decode_clip(read_members(file.read(sample.length)), views=(0,))
        ts = np.linspace(0, len(clip.frames) - 1, 3).astype(int)
        rows.append(np.concatenate([*clip.frames[ts], *colorize(clip.labels[0][ts])], axis=1))
    picture = Picture(
        data=_png(np.concatenate(rows)), caption="Frames of three clips, and their pseudo-labels."
    )
    return Section(title="Pseudo-labels", figures=figures, pictures=(picture,))


def _training(folder: Path, training: TrainingResult) -> Section:
    m = training.metrics
    figures = (
        Figure(label="wrong pixels", value=f"{m['error']:.1%}"),
        Figure(label="copying labels in place", value=f"{m['copy_error']:.1%}"),
        Figure(label="samples/s", value=f"{m['samples_per_second']:.2f}"),
        Figure(label="waiting for data", value=f"{m['data_wait']:.1%}"),
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = sorted((folder / "pictures").glob("*.png"))[-1]
    return Section(
        title="Training",
        figures=figures,
        pictures=(
            _curves(lines),
            Picture(
                data=last.read_bytes(),
                caption="What each module reconstructs, and the embedding's principal components as colours.",
            ),
        ),
    )


def _masks(scores: dict[str, DavisSummary], data: Path) -> list[Section]:
    """A strip per sequence: the model's masks above, the truth below; then the table of objects."""
    sections = []
    out = scores["model"].out
    assert out is not None, "an evaluation that was run has a folder"
    for name in sequence_names(data):
        sequence = open_sequence(data, name)
        ts = [int(t) for t in np.linspace(1, len(sequence.frames) - 1, STRIP_FRAMES).round()]
        frames = {t: sequence.frame(t) for t in ts}
        predicted = [
            (frames[t], read_mask(out / "masks" / name / f"{sequence.frames[t].stem}.png"))
            for t in ts
        ]
        strip = overlay_strip([predicted, [(frames[t], sequence.annotation(t)) for t in ts]])
        caption = f"Predicted (above) and true (below), frames {', '.join(map(str, ts))}."
        sections.append(Section(title=name, pictures=(Picture(data=strip.data, caption=caption),)))
    return [*sections, Section(title="Objects", table=object_table(scores["model"].objects))]


def _lineage(shards: PrecomputeResult, training: TrainingResult) -> Section:
    rows = (
        ("model", f"{training.model.uri} ({', '.join(training.model.aliases)})"),
        ("run", training.model.run_id),
        ("data set", shards.digest),
        ("MLflow store", training.tracking_uri),
        ("model file", str(training.model_file)),
    )
    return Section(title="Where it came from", table=Table(header=("", ""), rows=rows))


def _curves(lines: list[dict[str, float]]) -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(10.4, 2.8), dpi=150, layout="constrained")
    FigureCanvasAgg(plot)
    panels = (
        {"loss": "loss", "loss_c": "correspondence", "loss_a": "appearance"},
        {"error": "model", "copy_error": "copying"},
    )
    for axes, names in zip(plot.subplots(1, 2), panels, strict=True):
        for name, label in names.items():
            axes.plot([line["step"] for line in lines], [line[name] for line in lines], label=label)
        axes.set(xlabel="step")
        axes.set_ylim(bottom=0)
    return finish_plot(
        plot,
        "Loss, and share of wrong pixels beside that of copying the reference's labels in place.",
    )


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
