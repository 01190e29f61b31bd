"""The report of an evaluation of DAVIS: scores, curves and pictures of all sequences, settings,
and the origin of the model; optionally compared with a baseline, which is a second evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from corrfractal.common.errors import NotFoundError
from corrfractal.common.report_page import (
    Cell,
    Chart,
    Curve,
    Delta,
    Figure,
    Link,
    Picture,
    Section,
    Share,
    Table,
    write_report,
)
from inference.benchmarks.davis import Davis, DavisSummary
from inference.benchmarks.jf_benchmark import ObjectScores
from inference.benchmarks.result_files import SCORES
from inference.datasets.davis_files import OFFICIAL_SEQUENCES, DavisSequence
from inference.metrics.jf import ObjectScore, mean_over_objects
from inference.prompts.mask_images import bright_palette, read_mask

from .pictures import (
    STRIP_FRAMES,
    STRIP_WIDTH,
    object_table,
    overlay_strip,
    picture_grid,
    subtraction,
    tile,
)
from .sections import ReportSettings, cost_figures, format_duration, settings_sections

U8 = npt.NDArray[np.uint8]

WORST_FRAMES = 3
APART = 5  # frames between two of the worst, since neighbours show the same fault
LEGEND = "orange: predicted, but not annotated; blue: missed; magenta: another object"


def evaluation_report(
    path: Path,
    evaluation: DavisSummary,
    benchmark: Davis,
    settings: ReportSettings,
    baseline: DavisSummary | None = None,
) -> None:
    """Write ``report.html``: scores, sequences and objects best first, curves and pictures of every
    sequence.

    Args:
        path: of the report.
        evaluation: scores, and the folder that holds ``masks/``.
        benchmark: the data set.
        settings: of the evaluation.
        baseline: another evaluation of the same data set, to compare with.
    """
    ours = _by_sequence(evaluation)
    theirs = {} if baseline is None else _by_sequence(baseline)
    best_first = sorted(ours, key=lambda name: -_mean_jf(ours[name]))

    sections = [_scores(evaluation, baseline), _sequences(best_first, ours, theirs)]
    for name in best_first:
        compared = [evaluation]
        if baseline is not None and name in theirs:
            compared.append(baseline)
        folders = [
            Path(summary.out) / "masks" / name for summary in compared if summary.out is not None
        ]
        sections.append(
            _sequence(
                benchmark.open(name),
                ours[name],
                theirs.get(name, []),
                folders,
                settings.config.opacity,
            )
        )
    sections.append(Section(title="Objects", table=object_table(evaluation.objects)))
    sections += settings_sections(settings)

    compared_with = ""
    if baseline is not None:
        compared_with = f" Compared with {baseline.model}: J&F {100 * baseline.JF:.1f} %."
    lead = (
        f"Model {evaluation.model} on {evaluation.sequences} sequences of {evaluation.dataset}. "
        f"The mask of the first frame is given, all later masks are predicted.{compared_with}"
    )
    write_report(path, f"Mask propagation: J&F {100 * evaluation.JF:.1f} %", sections, lead=lead)


def read_evaluation(out: Path) -> DavisSummary:
    """Read an earlier evaluation from its folder.

    Raises:
        NotFoundError: the folder holds no finished evaluation.
    """
    try:
        document = json.loads((out / SCORES).read_text(encoding="utf-8"))
        objects: list[ObjectScore] = []
        for path in sorted((out / "sequences").glob("*.json")):
            objects += TypeAdapter(ObjectScores).validate_json(path.read_bytes()).objects
        return DavisSummary(
            dataset=document["dataset"],
            sequences=document["sequences"],
            model=document["model"],
            seconds_per_frame=document["seconds_per_frame"],
            peak_rss_mb=document["peak_rss_mb"],
            out=out.resolve(),
            objects=tuple(objects),
        )
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise NotFoundError(
            f"{out} holds no finished evaluation: {SCORES} and sequences/ are expected"
        ) from exc


def worst_frames(objects: Sequence[ObjectScore]) -> list[int]:
    """Up to three frames of lowest J&F over all objects, worst first, at least ``APART`` apart."""
    per_frame = np.mean([[score.j_frames, score.f_frames] for score in objects], axis=(0, 1))
    chosen: list[int] = []
    for index in np.argsort(per_frame, kind="stable"):
        frame = int(index) + 1  # the first frame is not scored
        if all(abs(frame - other) >= APART for other in chosen):
            chosen.append(frame)
    return chosen[:WORST_FRAMES]


def _scores(evaluation: DavisSummary, baseline: DavisSummary | None) -> Section:
    shares = {
        "J&F": evaluation.JF,
        "J mean": evaluation.mean("J"),
        "F mean": evaluation.mean("F"),
        "J recall": evaluation.mean("J", "recall"),
        "F recall": evaluation.mean("F", "recall"),
    }
    decays = {
        "J decay": evaluation.mean("J", "decay"),
        "F decay": evaluation.mean("F", "decay"),
    }
    figures = [
        *(Figure(label=label, value=f"{100 * share:.1f} %") for label, share in shares.items()),
        *(Figure(label=label, value=f"{100 * decay:+.1f}") for label, decay in decays.items()),
        *cost_figures(evaluation),
    ]

    text = (
        "J is region similarity, F contour accuracy, both as the official DAVIS evaluation "
        "computes them."
    )
    official = OFFICIAL_SEQUENCES.get(evaluation.dataset)
    if official is not None and evaluation.sequences != official:
        text += (
            f"\n\nThis data set has {evaluation.sequences} sequences, the official "
            f"{evaluation.dataset} has {official}: the figures are not comparable with published "
            "ones."
        )
    table = None if baseline is None else _comparison(evaluation, baseline)
    return Section(title="Scores", text=text, figures=tuple(figures), table=table)


def _comparison(evaluation: DavisSummary, baseline: DavisSummary) -> Table:
    def means(summary: DavisSummary) -> list[float]:
        return [
            summary.JF,
            summary.mean("J"),
            summary.mean("F"),
            summary.mean("J", "recall"),
            summary.mean("F", "recall"),
        ]

    rows: list[tuple[Cell, ...]] = []
    for summary in (evaluation, baseline):
        shares = [Share(value=value) for value in means(summary)]
        rows.append(
            (str(summary.model), *shares, format_duration(summary.seconds_per_frame or 0.0))
        )
    # In points of a hundred, with the sign: positive where the evaluation is better.
    pairs = zip(means(evaluation), means(baseline), strict=True)
    rows.append(("difference", *(Delta(value=ours - theirs) for ours, theirs in pairs), ""))

    header = ("", "J&F %", "J %", "F %", "J recall %", "F recall %", "per frame")
    return Table(header=header, rows=tuple(rows))


def _sequences(
    names: list[str], ours: dict[str, list[ObjectScore]], theirs: dict[str, list[ObjectScore]]
) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        objects = ours[name]
        own = _mean_jf(objects)
        shares = (own, mean_over_objects(objects, "J"), mean_over_objects(objects, "F"))
        row: list[Cell] = [Link(title=name), *(Share(value=share) for share in shares)]
        if name in theirs:
            other = _mean_jf(theirs[name])
            row += [Share(value=other), Delta(value=own - other)]
        elif theirs:
            row += ["", ""]
        rows.append((*row, len(objects), len(objects[0].j_frames), worst_frames(objects)[0]))

    compared = ("other J&F %", "difference") if theirs else ()
    numbers = ("objects", "scored frames", "worst frame")
    header = ("sequence", "J&F %", "J %", "F %", *compared, *numbers)
    return Section(title="Sequences, best first", table=Table(header=header, rows=tuple(rows)))


def _sequence(
    sequence: DavisSequence,
    objects: list[ObjectScore],
    theirs: list[ObjectScore],
    folders: list[Path],
    opacity: float,
) -> Section:
    """Scores, curves and pictures of one sequence; ``folders`` hold the masks of each model."""
    scores = "; ".join(
        f"object {score.object_id}: J {100 * score.J.mean:.1f} %, F {100 * score.F.mean:.1f} %"
        for score in objects
    )
    worst = worst_frames(objects)
    chart = Chart(
        curves=(*_curves(objects, ""), *_curves(theirs, " (other)", faint=True)),
        marks=tuple(worst),
        caption=(
            "Region similarity J and contour accuracy F in per cent, frame by frame; dashed: the "
            "worst frames."
        ),
    )
    pictures = (_strip(sequence, folders, opacity), _worst(sequence, folders, worst, opacity))
    return Section(title=sequence.name, text=scores, charts=(chart,), pictures=pictures)


def _curves(objects: list[ObjectScore], note: str, faint: bool = False) -> list[Curve]:
    curves = []
    for score in sorted(objects, key=lambda score: score.object_id):
        color = "#{:02x}{:02x}{:02x}".format(*bright_palette()[score.object_id])
        which = f", object {score.object_id}{note}" if len(objects) > 1 else note
        curves += [
            Curve(label=f"J{which}", values=score.j_frames, color=color, faint=faint),
            Curve(label=f"F{which}", values=score.f_frames, color=color, faint=faint, dotted=True),
        ]
    return curves


def _strip(sequence: DavisSequence, folders: list[Path], opacity: float) -> Picture:
    last = len(sequence.frames) - 1
    indices = [int(t) for t in np.linspace(1, last, STRIP_FRAMES).round()]
    frames = {t: sequence.frame(t) for t in indices}
    rows = [[(frames[t], _prediction(sequence, folder, t)) for t in indices] for folder in folders]
    rows.append([(frames[t], sequence.annotation(t)) for t in indices])

    which = "Predicted (above) and annotated (below)"
    if len(folders) > 1:
        which = "Predicted, predicted by the other model, and annotated (from above)"
    return Picture(
        data=overlay_strip(rows, opacity=opacity).data,
        caption=f"{which}, frames {', '.join(map(str, indices))}.",
    )


def _worst(
    sequence: DavisSequence, folders: list[Path], worst: list[int], opacity: float
) -> Picture:
    """A row per frame: the annotation, then the mask of each model and its subtraction image."""
    # One column for the annotation and two for each model.
    width = STRIP_WIDTH // (1 + 2 * len(folders))
    rows = []
    for t in worst:
        frame = sequence.frame(t)
        truth = sequence.annotation(t)
        row = [tile(frame, truth, width, opacity)]
        for folder in folders:
            mask = _prediction(sequence, folder, t)
            image = subtraction(truth, mask)
            row += [tile(frame, mask, width, opacity), tile(image, np.zeros_like(truth), width, 0)]
        rows.append(row)
    other = ", and the same of the other model" if len(folders) > 1 else ""
    caption = (
        f"The worst frames, {', '.join(map(str, worst))}: annotated; predicted; their subtraction "
        f"image, prediction xor truth ({LEGEND}){other}."
    )
    return Picture(data=picture_grid(rows).data, caption=caption)


def _prediction(sequence: DavisSequence, folder: Path, t: int) -> U8:
    return read_mask(folder / f"{sequence.frames[t].stem}.png")


def _by_sequence(evaluation: DavisSummary) -> dict[str, list[ObjectScore]]:
    found: dict[str, list[ObjectScore]] = {}
    for score in evaluation.objects:
        found.setdefault(score.sequence, []).append(score)
    return found


def _mean_jf(objects: Sequence[ObjectScore]) -> float:
    return (mean_over_objects(objects, "J") + mean_over_objects(objects, "F")) / 2
