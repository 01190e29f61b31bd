"""Evaluation, and propagation through many videos, spread over a Ray cluster: one task per sequence
or video, the model loaded once in every worker process.

The chain: names of the sequences -> stored results that still hold -> tasks for the others -> sums
-> report -> MLflow. What fails is named and does not stop the rest; running the same call again
does only what is missing.
"""

from __future__ import annotations

import collections
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corrfractal.common.console import progress, say
from corrfractal.common.errors import CorrFractalError, NotFoundError
from corrfractal.common.output_guard import refuse_foreign_page, refuse_overlap
from corrfractal.common.ray_session import ray_session
from corrfractal.common.ray_tasks import WorkerDiedError, run_tasks
from corrfractal.registry.scores import Scores
from corrfractal.registry.weights import log_measures, log_scores
from inference.benchmarks.base import (
    SCORES,
    Benchmark,
    PicturedBenchmark,
    Result,
    Summary,
    result_file,
    sequence_note,
    summary_note,
)
from inference.benchmarks.davis import Davis, Evaluation
from inference.prompts.shapes import Prompts
from inference.reports.benchmark_report import benchmark_report
from inference.reports.davis_report import Settings, evaluation_report, read_evaluation
from inference.reports.model_facts import describe_model

from .config import InferenceConfig
from .load import Model, ModelSource, open_model, resolve_model
from .outputs import Outputs
from .propagate import Job, Propagation, frame_names, make_folder, propagate_video
from .videos import list_videos, names_of, outputs_of, prompts_of, unused_masks

__all__ = ["evaluate", "evaluate_davis", "propagate_video", "propagate_videos"]

REPORT = "report.html"
AGAIN = "the others are kept: mend these and run the same command again"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What every task of an evaluation needs besides the name of its sequence."""

    benchmark: Benchmark
    out: Path
    source: ModelSource
    config: InferenceConfig


@dataclass(frozen=True, kw_only=True)
class _Video:
    """What the task of one video needs."""

    name: str
    path: Path
    masks: Path
    out: Path
    outputs: Outputs
    source: ModelSource
    config: InferenceConfig
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class _Failure:
    name: str
    reason: str


def propagate_videos(
    videos: Path,
    masks: Path,
    out: Path,
    model: str | None,
    config: InferenceConfig | None = None,
    *,
    outputs: Outputs | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> list[Propagation]:
    """Carry masks through many videos, each into a folder of its name in ``out``.

    Args:
        videos: folder of videos, searched with its sub-folders, or a list of them
            (``corrfractal.video.discovery``).
        masks: folder with ``NAME.png``, or a folder ``NAME`` of numbered masks, for each video.
        model: see ``inference.load.resolve_model``.
        outputs: what else to write; its paths are folders.
        workers: videos at once; None takes ``config.workers``.
        overwrite: replace files of others where results go.

    Raises:
        CallError: an output touches an input, or would replace files of others. Nothing was
        written.
        NotFoundError: no such videos, masks or model.
        CorrFractalError: videos failed; names each with its reason. The others' results are
        kept.
    """
    config, outputs = config or InferenceConfig(), outputs or Outputs()
    # Before anything is resolved, so that messages name what the user named.
    refuse_overlap({"--out": out, **outputs.places}, (videos, masks, model and Path(model)))
    out, masks = out.resolve(), masks.resolve()
    if not masks.is_dir():
        raise NotFoundError(f"the folder of masks {masks} does not exist")
    entries = list_videos(
        videos, skip=[out, masks, *(path for path in outputs.places.values() if path is not None)]
    )
    refuse_overlap({"--out": out, **outputs.places}, [entry.location for entry in entries])
    named = dict(zip(names_of(entries), entries, strict=True))
    each = {name: outputs_of(name, _resolved(outputs)) for name in named}
    links = {f"--out {name}": out / name for name in each if (out / name).is_symlink()}
    refuse_overlap(links, (videos, masks, *(entry.location for entry in entries)))
    for name, of_video in each.items():
        nothing = Prompts(masks={})
        Job(
            video=videos, given=nothing, out=out / name, outputs=of_video, overwrite=overwrite
        ).refuse_foreign()
    source = _resolve_shared(model, out, overwrite)
    make_folder(out)
    jobs: dict[str, Any] = {
        name: _Video(
            name=name,
            path=Path(entry.location),
            masks=masks,
            out=out / name,
            outputs=each[name],
            source=source,
            config=config,
            overwrite=overwrite,
        )
        for name, entry in named.items()
        if not entry.fault
    }
    done: dict[str, Propagation] = {}
    failures = [
        _Failure(name=name, reason=entry.fault) for name, entry in named.items() if entry.fault
    ]
    for failure in failures:
        say(f"  {failure.name}: failed, {failure.reason}")
    for path in unused_masks(named, masks):
        say(f"  {path}: no video of this name, so this mask is not used")
    with progress("propagate", len(jobs)) as advance, ray_session():
        for name, outcome in _run_each(
            _propagate_task, jobs, config.workers if workers is None else workers
        ):
            if isinstance(outcome, _Failure):
                failures.append(outcome)
                say(f"  {name}: failed, {outcome.reason}")
            else:
                done[name] = outcome
                say(
                    f"  {name}: {outcome.frames} masks, {outcome.kept} of them kept from an "
                    "earlier run"
                )
            advance(1)
    if failures:
        raise CorrFractalError(
            f"{len(failures)} of {len(named)} videos failed ({_named(failures)}); {AGAIN}"
        )
    return [done[name] for name in jobs]


def evaluate_davis(
    data: Path,
    out: Path,
    model: str | None,
    config: InferenceConfig | None = None,
    *,
    workers: int | None = None,
    year: str | None = None,
    compare: Path | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Propagate and score DAVIS val; write masks, ``scores.json`` and ``report.html`` to ``out``;
    see ``evaluate``.

    Args:
        data: folder with JPEGImages, Annotations and ImageSets.
        year: 2017 or 2016; None looks which one is there.
        compare: folder of another evaluation of the same data set, set beside this one in the
            report.
        overwrite: replace files of others where results go.
    """
    config, benchmark = config or InferenceConfig(), Davis(data.resolve(), year)
    _refuse_outputs(benchmark, out, (data, model and Path(model), compare), overwrite)
    baseline = None if compare is None else read_evaluation(compare)
    source = _resolve_shared(model, out.resolve(), overwrite)
    evaluation, _ = _evaluate(benchmark, out.resolve(), source, config, workers)
    assert isinstance(evaluation, Evaluation)
    settings = Settings(config=config, model=describe_model(source), digest=benchmark.digest())
    evaluation_report(out / REPORT, evaluation, benchmark, settings, baseline)
    return evaluation


def evaluate(
    benchmark: PicturedBenchmark,
    out: Path,
    model: str | None,
    config: InferenceConfig | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> Summary:
    """Propagate and score a data set; write predictions, ``scores.json`` and ``report.html`` to
    ``out``.

    Args:
        benchmark: the data set with its protocol.
        model: see ``inference.load.resolve_model``.
        workers: sequences at once; None takes ``config.workers``.
        overwrite: replace files of others where results go.

    Raises:
        CallError: ``out`` touches the data set or the model, or holds files of others where results
        go.
        NotFoundError: no such data set or model.
        CorrFractalError: sequences failed; names each with its reason. The others' results are
        kept.
    """
    _refuse_outputs(benchmark, out, (benchmark.data, model and Path(model)), overwrite)
    source = _resolve_shared(model, out.resolve(), overwrite)
    config = config or InferenceConfig()
    summary, results = _evaluate(benchmark, out.resolve(), source, config, workers)
    settings = Settings(config=config, model=describe_model(source))
    benchmark_report(out / REPORT, summary, results, benchmark, settings)
    return summary


def _refuse_outputs(
    benchmark: Benchmark, out: Path, inputs: Sequence[Path | str | None], overwrite: bool
) -> None:
    """Check that ``out`` touches no input, and that nothing of others is where results go; nothing
    is written.

    Raises:
        CallError: names the first that does.
    """
    names = benchmark.names()  # first, since a folder that is no data set is the greater mistake
    links = {
        f"--out {part.name}": part
        for part in (out.iterdir() if out.is_dir() else ())
        if part.is_symlink()
    }
    refuse_overlap({"--out": out, **links}, inputs)
    refuse_foreign_page(out / REPORT, overwrite=overwrite)
    summary_note(out).refuse_foreign([out / SCORES], overwrite=overwrite)
    for name in names:
        try:
            predictions = benchmark.predictions(name, out)
        except CorrFractalError:
            continue  # reported with the reason when its turn comes
        written = sequence_note(out, name)
        written.refuse_foreign([result_file(out, name), *predictions], overwrite=overwrite)


def _resolve_shared(model: str | None, out: Path, overwrite: bool) -> ModelSource:
    """Find a model; weights of the MLflow store are copied to ``out/model``, where all workers
    can read them.

    Raises:
        NotFoundError, CallError: as ``resolve_model``; or a file of others is where the weights
        go.
    """
    with tempfile.TemporaryDirectory(prefix="corrfractal-") as folder:
        source = resolve_model(model, Path(folder))
        if source.path is None or not source.path.is_relative_to(Path(folder).resolve()):
            return source
        weights = out / "model" / source.path.name
        written = summary_note(out)
        written.refuse_foreign([weights], overwrite=overwrite)
        with written.replacing(weights) as temporary:
            shutil.copyfile(source.path, temporary)
    return replace(source, path=weights)


def _evaluate(
    benchmark: Benchmark,
    out: Path,
    source: ModelSource,
    config: InferenceConfig,
    workers: int | None,
) -> tuple[Summary, list[Result]]:
    names = benchmark.names()
    make_folder(out)
    job = _Job(benchmark=benchmark, out=out, source=source, config=config)
    outcomes: dict[str, Result | _Failure] = {}
    with progress("evaluate", len(names)) as advance:
        for outcome in _outcomes(names, job, config.workers if workers is None else workers):
            outcomes[outcome.name] = outcome
            say(_line(outcome))
            advance(1)
    results = [outcome for name in names if isinstance(outcome := outcomes[name], Result)]
    _refuse_failures([o for o in outcomes.values() if isinstance(o, _Failure)], len(names), out)
    summary = benchmark.summarize(results, source, out)
    if source.registered is not None and source.run_id is not None:
        try:
            _log(summary, source.run_id, source.registered, job)
        except CorrFractalError as exc:  # the scores themselves are complete
            say(
                f"warning: the scores are in {out}, but not in the registry: {exc}. The same "
                "command again adds them"
            )
    return summary, results


def _log(summary: Summary, run_id: str, registered: tuple[str, str], job: _Job) -> None:
    """Note the scores on the model version that made them; J and F of DAVIS in the form that the
    gate reads."""
    benchmark = job.benchmark
    if not isinstance(summary, Evaluation) or not isinstance(benchmark, Davis):
        measures = {**summary.measures(), "sequences": summary.sequences}
        log_measures(run_id, registered, benchmark.dataset, measures, summary.to_dict())
        return
    scores = Scores(
        dataset=benchmark.dataset,
        set_digest=benchmark.digest(),
        settings=job.config.digest,
        weights=job.source.digest,
        sequences=summary.sequences,
        objects=len(summary.objects),
        J=summary.mean("J"),
        F=summary.mean("F"),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    log_scores(run_id, registered, scores, summary.to_dict())


def _outcomes(names: tuple[str, ...], job: _Job, workers: int) -> Iterator[Result | _Failure]:
    """One outcome for every sequence: stored ones first, then the others as they finish."""
    missing = []
    for name in names:
        try:
            stored = job.benchmark.stored(name, job.out, job.source, job.config)
        except CorrFractalError as exc:
            yield _Failure(name=name, reason=str(exc))
            continue
        if stored is None:
            missing.append(name)
        else:
            yield stored
    if missing:
        with ray_session():
            tasks = {name: (name, job) for name in missing}
            yield from (outcome for _, outcome in _run_each(_evaluate_task, tasks, workers))


def _run_each(
    work: Callable[[Any], Any], jobs: dict[str, Any], workers: int
) -> Iterator[tuple[str, Any]]:
    """Name and outcome of every job as it ends, ``workers`` at once; a task whose process dies
    twice is a failure."""
    import ray

    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 1}
    waiting = collections.deque(jobs)
    for ended in run_tasks(
        work, waiting, lambda name: (jobs[name],), workers=workers, options=options
    ):
        try:
            yield ended.job, ended.result()
        except WorkerDiedError as exc:
            yield ended.job, _Failure(name=ended.job, reason=f"its worker process died ({exc})")
        except CorrFractalError as exc:
            yield ended.job, _Failure(name=ended.job, reason=str(exc))


def _evaluate_task(task: tuple[str, _Job]) -> Result | _Failure:
    """Runs in a worker process, on one core."""
    name, job = task
    _one_core()
    try:
        return job.benchmark.evaluate(name, job.out, job.source, _model(job.source), job.config)
    except CorrFractalError as exc:
        return _Failure(name=name, reason=str(exc))


def _propagate_task(job: _Video) -> Propagation | _Failure:
    """Runs in a worker process, on one core."""
    _one_core()
    try:
        prompts = prompts_of(job.name, job.masks, frame_names(job.path))
        work = Job(
            video=job.path, given=prompts, out=job.out, outputs=job.outputs, overwrite=job.overwrite
        )
        return work.run(work.check(), job.source, _model(job.source), job.config)
    except (CorrFractalError, OSError) as exc:
        return _Failure(name=job.name, reason=str(exc))


def _one_core() -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@functools.lru_cache(maxsize=1)
def _model(source: ModelSource) -> Model:
    return open_model(source)


def _line(outcome: Result | _Failure) -> str:
    if isinstance(outcome, _Failure):
        return f"  {outcome.name}: failed, {outcome.reason}"
    return f"  {outcome.name}: {outcome.line}; {outcome.frames} frames, {outcome.seconds / outcome.frames:.2f} s each"


def _refuse_failures(failures: list[_Failure], total: int, out: Path) -> None:
    if failures:
        summary_note(out).clear(lambda path: path.name == SCORES)
        raise CorrFractalError(
            f"{len(failures)} of {total} sequences failed, so there is no score "
            f"({_named(failures)}); {AGAIN}"
        )


def _named(failures: Sequence[_Failure]) -> str:
    return "; ".join(f"{failure.name}: {failure.reason}" for failure in failures)


def _resolved(outputs: Outputs) -> Outputs:
    """The same with absolute paths: worker processes have working folders of their own."""
    paths = {key: getattr(outputs, key) for key in ("overlay", "contours", "cutout")}
    return replace(outputs, **{key: path and path.resolve() for key, path in paths.items()})
