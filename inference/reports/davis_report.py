"""The report of an evaluation: scores, sequences in curves and pictures, settings, lineage; or of
two side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence as Many
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corrfractal.common.config import config_to_dict, flatten
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
from inference.benchmarks.davis import Davis, Evaluation
from inference.config import InferenceConfig
from inference.datasets.davis_files import OFFICIAL_SEQUENCES, Sequence
from inference.metrics.jf import ObjectScore
from inference.prompts.mask_images import bright_palette, read_mask

from .pictures import STRIP_WIDTH, object_table, overlay_strip, picture_grid, subtraction, tile

U8 = npt.NDArray[np.uint8]

STRIP_FRAMES = 5
WORST_FRAMES = 3
APART = 5  # frames between two of the worst: neighbours show the same fault
LEGEND = "orange: predicted, but not there; blue: missed; magenta: another object"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an evaluation was made.

    Attributes:
        config: of the propagation.
        model: facts of the model for people, see ``lineage.describe_model``.
        digest: of the evaluation set, where it has one.
    """

    config: InferenceConfig
    model: dict[str, str]
    digest: str = ""


def evaluation_report(
    path: Path,
    evaluation: Evaluation,
    benchmark: Davis,
    settings: Settings,
    baseline: Evaluation | None = None,
) -> None:
    """Write ``report.html``: the scores, sequences and objects best first, every sequence in curves
    and pictures.

    Args:
        path: of the report.
        evaluation: scores, and the folder that holds ``masks/``.
        benchmark: the data set.
        settings: how it was made.
        baseline: another evaluation of the same data set, set beside it.
    """
    ours, theirs = _by_sequence(evaluation), {} if baseline is None else _by_sequence(baseline)
    names = sorted(ours, key=lambda name: -_mean_jf(ours[name]))
    sections = [_scores(evaluation, baseline), _sequences(names, ours, theirs)]
    sections += [
        _sequence(
            benchmark.open(name), ours[name], theirs.get(name, []), evaluation, baseline, settings
        )
        for name in names
    ]
    sections.append(Section(title="Objects", table=object_table(evaluation.objects)))
    sections += settings_sections(settings)
    against = (
        "" if baseline is None else f" Set beside {baseline.model}: J&F {100 * baseline.JF:.1f} %."
    )
    lead = (
        f"Model {evaluation.model} on {evaluation.sequences} sequences of {evaluation.dataset}. "
        f"The mask of the first frame is given, all later masks are predicted.{against}"
    )
    write_report(path, f"Mask propagation: J&F {100 * evaluation.JF:.1f} %", sections, lead=lead)


def read_evaluation(out: Path) -> Evaluation:
    """An earlier evaluation, from its folder.

    Raises:
        NotFoundError: the folder holds no finished evaluation.
    """
    try:
        facts = json.loads((out / "scores.json").read_text(encoding="utf-8"))
        results = [
            json.loads(p.read_text(encoding="utf-8"))
            for p in sorted((out / "sequences").glob("*.json"))
        ]
        objects = tuple(
            ObjectScore(**{**o, "j_frames": tuple(o["j_frames"]), "f_frames": tuple(o["f_frames"])})
            for result in results
            for o in result["objects"]
        )
        return Evaluation(
            dataset=facts["dataset"], objects=objects, sequences=facts["sequences"], model=facts["model"],
            seconds_per_frame=facts["seconds_per_frame"], peak_rss_mb=facts["peak_rss_mb"], out=out.resolve(),
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise NotFoundError(
            f"{out} holds no finished evaluation: scores.json and sequences/ are expected"
        ) from exc


def worst_frames(objects: Many[ObjectScore]) -> list[int]:
    """The frames of lowest J&F over all objects, worst first, no two of them close together."""
    scores = np.mean([[o.j_frames, o.f_frames] for o in objects], axis=(0, 1))
    chosen: list[int] = []
    for t in np.argsort(scores, kind="stable"):
        if len(chosen) < WORST_FRAMES and all(abs(int(t) + 1 - other) >= APART for other in chosen):
            chosen.append(int(t) + 1)
    return chosen


def _scores(evaluation: Evaluation, baseline: Evaluation | None) -> Section:
    figures = [
        Figure(label="J&F", value=f"{100 * evaluation.JF:.1f} %"),
        *(Figure(label=f"{m} mean", value=f"{100 * evaluation.mean(m):.1f} %") for m in "JF"),
        *(
            Figure(label=f"{m} recall", value=f"{100 * evaluation.mean(m, 'recall'):.1f} %")
            for m in "JF"
        ),
        *(
            Figure(label=f"{m} decay", value=f"{100 * evaluation.mean(m, 'decay'):+.1f}")
            for m in "JF"
        ),
    ]
    if evaluation.seconds_per_frame is not None and evaluation.peak_rss_mb is not None:
        figures.append(
            Figure(label="tracker, per frame", value=_duration(evaluation.seconds_per_frame))
        )
        figures.append(Figure(label="peak memory", value=f"{evaluation.peak_rss_mb:.0f} MB"))
    text = "J is region similarity, F contour accuracy, both as the official DAVIS evaluation computes them."
    official = OFFICIAL_SEQUENCES.get(evaluation.dataset)
    if official is not None and evaluation.sequences != official:
        text += (
            f"\n\nThis data set holds {evaluation.sequences} sequences, the official "
            f"{evaluation.dataset} {official}: "
            "the figures cannot be set beside published ones."
        )
    table = None if baseline is None else _side_by_side(evaluation, baseline)
    return Section(title="Scores", text=text, figures=tuple(figures), table=table)


def _side_by_side(evaluation: Evaluation, baseline: Evaluation) -> Table:
    def row(e: Evaluation) -> tuple[Cell, ...]:
        shares = (e.JF, e.mean("J"), e.mean("F"), e.mean("J", "recall"), e.mean("F", "recall"))
        return (
            str(e.model),
            *(Share(value=share) for share in shares),
            _duration(e.seconds_per_frame or 0.0),
        )

    means = [
        [e.JF, *(e.mean(m) for m in "JF"), *(e.mean(m, "recall") for m in "JF")]
        for e in (evaluation, baseline)
    ]
    deltas = tuple(Delta(value=a - b) for a, b in zip(*means, strict=True))
    header = ("", "J&F %", "J %", "F %", "J recall %", "F recall %", "per frame")
    return Table(header=header, rows=(row(evaluation), row(baseline), ("difference", *deltas, "")))


def _sequences(
    names: list[str], ours: dict[str, list[ObjectScore]], theirs: dict[str, list[ObjectScore]]
) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        objects = ours[name]
        shares = (_mean_jf(objects), _mean(objects, "J"), _mean(objects, "F"))
        row: list[Cell] = [Link(title=name), *(Share(value=share) for share in shares)]
        if theirs:
            baseline = theirs.get(name)
            row += (
                ["", ""]
                if not baseline
                else [Share(value=_mean_jf(baseline)), Delta(value=shares[0] - _mean_jf(baseline))]
            )
        rows.append((*row, len(objects), len(objects[0].j_frames), worst_frames(objects)[0]))
    beside = ("other J&F %", "difference") if theirs else ()
    header = ("sequence", "J&F %", "J %", "F %", *beside, "objects", "scored frames", "worst frame")
    return Section(title="Sequences, best first", table=Table(header=header, rows=tuple(rows)))


def _sequence(
    sequence: Sequence,
    objects: list[ObjectScore],
    theirs: list[ObjectScore],
    evaluation: Evaluation,
    baseline: Evaluation | None,
    settings: Settings,
) -> Section:
    worst = worst_frames(objects)
    scores = "; ".join(
        f"object {o.object_id}: J {100 * o.J.mean:.1f} %, F {100 * o.F.mean:.1f} %" for o in objects
    )
    chart = Chart(
        curves=(
            *_curves(objects, ""),
            *(_curves(theirs, " (other)", faint=True) if theirs else ()),
        ),
        marks=tuple(worst),
        caption="Region similarity J and contour accuracy F in per cent, frame by frame; dashed: the worst frames.",
    )
    opacity = settings.config.opacity
    predictions = [evaluation.out] + ([baseline.out] if baseline is not None and theirs else [])
    folders = [out / "masks" / sequence.name for out in predictions if out is not None]
    pictures = (_strip(sequence, folders, opacity), _worst(sequence, folders, worst, opacity))
    return Section(title=sequence.name, text=scores, charts=(chart,), pictures=pictures)


def _curves(objects: list[ObjectScore], note: str, faint: bool = False) -> list[Curve]:
    curves = []
    for o in sorted(objects, key=lambda o: o.object_id):
        color = "#{:02x}{:02x}{:02x}".format(*bright_palette()[o.object_id])
        which = f", object {o.object_id}{note}" if len(objects) > 1 else note
        curves.append(Curve(label=f"J{which}", values=o.j_frames, color=color, faint=faint))
        curves.append(
            Curve(label=f"F{which}", values=o.f_frames, color=color, faint=faint, dotted=True)
        )
    return curves


def _strip(sequence: Sequence, folders: list[Path], opacity: float) -> Picture:
    ts = [int(t) for t in np.linspace(1, len(sequence.frames) - 1, STRIP_FRAMES).round()]
    frames = {t: sequence.frame(t) for t in ts}
    rows = [[(frames[t], _prediction(sequence, folder, t)) for t in ts] for folder in folders]
    strip = overlay_strip(
        [*rows, [(frames[t], sequence.annotation(t)) for t in ts]], opacity=opacity
    )
    which = "Predicted (above) and annotated (below)"
    if len(folders) > 1:
        which = "Predicted, predicted by the other model, and annotated (from above)"
    return Picture(data=strip.data, caption=f"{which}, frames {', '.join(map(str, ts))}.")


def _worst(sequence: Sequence, folders: list[Path], worst: list[int], opacity: float) -> Picture:
    """A row per bad frame: truth, then for each model its mask and its subtraction image."""
    width = STRIP_WIDTH // (1 + 2 * len(folders))
    rows = []
    for t in worst:
        frame, truth = sequence.frame(t), sequence.annotation(t)
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


def _prediction(sequence: Sequence, folder: Path, t: int) -> U8:
    return read_mask(folder / f"{sequence.frames[t].stem}.png")


def settings_sections(settings: Settings) -> list[Section]:
    """The last sections of every report: how it was made, and by which model."""
    plain = flatten(config_to_dict(settings.config.tracker))
    rows = [
        (key.replace("_", " "), ", ".join(map(str, v)) if isinstance(v, list) else str(v))
        for key, v in plain.items()
    ]
    rows.append(("settings (SHA-256)", settings.config.digest))
    if settings.digest:
        rows.append(("annotations (SHA-256)", settings.digest))
    return [
        Section(title="Settings", table=Table(header=("", ""), rows=tuple(rows))),
        Section(
            title="Where the model came from",
            table=Table(header=("", ""), rows=tuple(settings.model.items())),
        ),
    ]


def _by_sequence(evaluation: Evaluation) -> dict[str, list[ObjectScore]]:
    found: dict[str, list[ObjectScore]] = {}
    for score in evaluation.objects:
        found.setdefault(score.sequence, []).append(score)
    return found


def _mean(objects: Many[ObjectScore], measure: str) -> float:
    return float(np.mean([getattr(o, measure).mean for o in objects]))


def _mean_jf(objects: Many[ObjectScore]) -> float:
    return (_mean(objects, "J") + _mean(objects, "F")) / 2


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"
