"""What an evaluation looks like: strips of overlaid frames, J and F over time, and the report made of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .datasets.davis import OFFICIAL_SEQUENCES, open_sequence
from .evaluation import Evaluation
from .masks import blend, bright_palette, read_mask
from .metrics.jf import ObjectScore
from .report import Cell, Figure, Picture, Section, Share, Table, write_report

U8 = npt.NDArray[np.uint8]

STRIP_WIDTH = 1560  # pixels: 1.5 times the width of the report's text, for sharp screens
STRIP_FRAMES = 5
GAP = 6
NEUTRAL = "#808890"  # readable on white and on black


def evaluation_report(path: Path, evaluation: Evaluation, data: Path, masks: Path, opacity: float = 0.5) -> None:
    """Write ``report.html``: the scores, the table of objects, and every sequence in pictures, best first."""
    by_sequence: dict[str, list[ObjectScore]] = {}
    for score in sorted(evaluation.objects, key=_jf, reverse=True):
        by_sequence.setdefault(score.sequence, []).append(score)
    sections = [_summary(evaluation), Section(title="Objects, best first", table=object_table(evaluation.objects))]
    sections += [_sequence_section(name, by_sequence[name], data, masks, opacity) for name in by_sequence]
    lead = (
        f"Model {evaluation.model} on {evaluation.sequences} sequences in the layout of DAVIS-2017. "
        "The mask of the first frame is given, all later masks are predicted."
    )
    write_report(path, f"Mask propagation: J&F {100 * evaluation.JF:.1f} %", sections, lead=lead)


def object_table(objects: Sequence[ObjectScore]) -> Table:
    """A row per object with J, F, recall and decay, sorted by J&F."""
    rows = tuple(_row(score) for score in sorted(objects, key=_jf, reverse=True))
    header = ("object", "J&F %", "J %", "F %", "J recall %", "F recall %", "J decay", "F decay", "frames")
    return Table(header=header, rows=rows)


def overlay_strip(rows: Sequence[Sequence[tuple[U8, U8]]], width: int = STRIP_WIDTH, opacity: float = 0.5) -> Picture:
    """Frames with their masks laid over them, side by side, one row of pictures above the other.

    Args:
        rows: equally long rows of (frame, mask): uint8 (H, W, 3) RGB and uint8 (H, W).
        width: of the whole picture, in pixels.
    """
    each = (width - GAP * (len(rows[0]) - 1)) // len(rows[0])
    tiles = [[_tile(frame, mask, each, opacity) for frame, mask in row] for row in rows]
    height = tiles[0][0].shape[0]
    canvas = np.zeros((len(rows) * (height + GAP) - GAP, len(rows[0]) * (each + GAP) - GAP, 3), dtype=np.uint8)
    canvas[:] = 128
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            top, left = y * (height + GAP), x * (each + GAP)
            canvas[top : top + height, left : left + each] = tile
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert ok, "cv2.imencode refuses no uint8 image"
    return Picture(data=bytes(data))


def score_curve(objects: Sequence[ObjectScore]) -> Picture:
    """J (solid) and F (dotted) of every object over the scored frames, PNG with a clear background."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(10.4, 2.5), dpi=150, layout="constrained")
    FigureCanvasAgg(plot)
    axes = plot.add_subplot()
    for score in sorted(objects, key=lambda o: o.object_id):
        color = tuple(bright_palette()[score.object_id] / 255)
        frames = np.arange(1, len(score.j_frames) + 1)
        axes.plot(frames, score.j_frames, color=color, lw=1.8, label=f"J, object {score.object_id}")
        axes.plot(frames, score.f_frames, color=color, lw=1.4, ls=(0, (1.5, 1.5)), label=f"F, object {score.object_id}")
    axes.set(ylim=(-0.02, 1.02), xlabel="frame")
    return finish_plot(plot, caption="Region similarity J and contour accuracy F, frame by frame.")


def finish_plot(plot: Any, caption: str) -> Picture:
    """A matplotlib figure as a picture that can be read on a light and on a dark page."""
    for axes in plot.axes:
        axes.margins(x=0.01)
        axes.grid(color=NEUTRAL, alpha=0.25, lw=0.6)
        axes.tick_params(colors=NEUTRAL)
        axes.xaxis.label.set_color(NEUTRAL)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=NEUTRAL)
    buffer = io.BytesIO()
    plot.savefig(buffer, format="png", transparent=True)
    return Picture(data=buffer.getvalue(), caption=caption)


def _row(score: ObjectScore) -> tuple[Cell, ...]:
    shares = (_jf(score), score.J.mean, score.F.mean, score.J.recall, score.F.recall)
    decays = (f"{100 * score.J.decay:+.1f}", f"{100 * score.F.decay:+.1f}")
    return (score.name, *(Share(value=share) for share in shares), *decays, len(score.j_frames))


def _summary(evaluation: Evaluation) -> Section:
    figures = [
        Figure(label="J&F", value=f"{100 * evaluation.JF:.1f} %"),
        *(Figure(label=f"{m} mean", value=f"{100 * evaluation.mean(m):.1f} %") for m in "JF"),
        *(Figure(label=f"{m} recall", value=f"{100 * evaluation.mean(m, 'recall'):.1f} %") for m in "JF"),
        *(Figure(label=f"{m} decay", value=f"{100 * evaluation.mean(m, 'decay'):+.1f}") for m in "JF"),
    ]
    if evaluation.seconds_per_frame is not None and evaluation.peak_rss_mb is not None:
        figures.append(Figure(label="tracker, per frame", value=_duration(evaluation.seconds_per_frame)))
        figures.append(Figure(label="peak memory", value=f"{evaluation.peak_rss_mb:.0f} MB"))
    text = "J is region similarity, F contour accuracy, both as the official DAVIS-2017 evaluation computes them."
    official = OFFICIAL_SEQUENCES["val"]
    if evaluation.sequences != official:
        text += (
            f"\n\nThis data set holds {evaluation.sequences} sequences, the official validation set {official}: "
            "the figures cannot be set beside published ones."
        )
    return Section(title="Scores", text=text, figures=tuple(figures))


def _sequence_section(name: str, objects: list[ObjectScore], data: Path, masks: Path, opacity: float) -> Section:
    sequence = open_sequence(data, name)
    chosen = [int(t) for t in np.linspace(1, len(sequence.frames) - 1, STRIP_FRAMES).round()]
    frames = {t: sequence.frame(t) for t in chosen}
    predicted = [(frames[t], read_mask(masks / name / f"{sequence.frames[t].stem}.png")) for t in chosen]
    annotated = [(frames[t], sequence.annotation(t)) for t in chosen]
    strip = overlay_strip([predicted, annotated], opacity=opacity)
    caption = f"Predicted (above) and annotated (below), frames {', '.join(map(str, chosen))}."
    scores = "; ".join(f"object {o.object_id}: J {100 * o.J.mean:.1f} %, F {100 * o.F.mean:.1f} %" for o in objects)
    return Section(title=name, text=scores, pictures=(Picture(data=strip.data, caption=caption), score_curve(objects)))


def _tile(frame: U8, mask: U8, width: int, opacity: float) -> U8:
    """A frame scaled to ``width`` with its mask laid over it; the mask is scaled first, so that rims stay thin."""
    height = round(frame.shape[0] * width / frame.shape[1])
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return blend(small, cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), opacity)


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def _jf(score: ObjectScore) -> float:
    return (score.J.mean + score.F.mean) / 2
