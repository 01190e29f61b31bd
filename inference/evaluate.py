"""Evaluation over a Ray cluster: one task per sequence, the model loaded once in every worker
process.

The chain: names of the sequences -> stored results that still hold -> tasks for the others -> sums
-> report -> MLflow. What fails is named and does not stop the rest; running the same call again
does only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from corrfractal.common.console import progress, say
from corrfractal.common.errors import CorrFractalError
from corrfractal.common.output_guard import refuse_foreign_page, refuse_overlap
from corrfractal.common.ray_session import ray_session
from corrfractal.registry.scores import Scores, log_measures, log_scores
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
from inference.reports.benchmark_report import benchmark_report
from inference.reports.davis_report import Settings, evaluation_report, read_evaluation
from inference.reports.model_facts import describe_model

from .config import InferenceConfig
from .load import ModelSource
from .propagation.outputs import make_folder
from .worker_tasks import (
    RERUN_HINT,
    Failure,
    cached_model,
    list_failures,
    resolve_shared_model,
    run_named_jobs,
    use_one_core,
)

REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class _EvaluationJob:
    """What every task of an evaluation needs besides the name of its sequence."""

    benchmark: Benchmark
    out: Path
    source: ModelSource
    config: InferenceConfig


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
    source = resolve_shared_model(model, out.resolve(), overwrite)
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
    source = resolve_shared_model(model, out.resolve(), overwrite)
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


def _evaluate(
    benchmark: Benchmark,
    out: Path,
    source: ModelSource,
    config: InferenceConfig,
    workers: int | None,
) -> tuple[Summary, list[Result]]:
    names = benchmark.names()
    make_folder(out)
    job = _EvaluationJob(benchmark=benchmark, out=out, source=source, config=config)
    outcomes: dict[str, Result | Failure] = {}
    with progress("evaluate", len(names)) as advance:
        for outcome in _outcomes(names, job, config.workers if workers is None else workers):
            outcomes[outcome.name] = outcome
            say(_line(outcome))
            advance(1)
    results = [outcome for name in names if isinstance(outcome := outcomes[name], Result)]
    _refuse_failures([o for o in outcomes.values() if isinstance(o, Failure)], len(names), out)
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


def _log(summary: Summary, run_id: str, registered: tuple[str, str], job: _EvaluationJob) -> None:
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


def _outcomes(
    names: tuple[str, ...], job: _EvaluationJob, workers: int
) -> Iterator[Result | Failure]:
    """One outcome for every sequence: stored ones first, then the others as they finish."""
    missing = []
    for name in names:
        try:
            stored = job.benchmark.stored(name, job.out, job.source, job.config)
        except CorrFractalError as exc:
            yield Failure(name=name, reason=str(exc))
            continue
        if stored is None:
            missing.append(name)
        else:
            yield stored
    if missing:
        with ray_session():
            tasks = {name: (name, job) for name in missing}
            yield from (outcome for _, outcome in run_named_jobs(_evaluate_task, tasks, workers))


def _evaluate_task(task: tuple[str, _EvaluationJob]) -> Result | Failure:
    """Runs in a worker process, on one core."""
    name, job = task
    use_one_core()
    try:
        return job.benchmark.evaluate(
            name, job.out, job.source, cached_model(job.source), job.config
        )
    except CorrFractalError as exc:
        return Failure(name=name, reason=str(exc))


def _line(outcome: Result | Failure) -> str:
    if isinstance(outcome, Failure):
        return f"  {outcome.name}: failed, {outcome.reason}"
    return f"  {outcome.name}: {outcome.line}; {outcome.frames} frames, {outcome.seconds / outcome.frames:.2f} s each"


def _refuse_failures(failures: list[Failure], total: int, out: Path) -> None:
    if failures:
        summary_note(out).clear(lambda path: path.name == SCORES)
        raise CorrFractalError(
            f"{len(failures)} of {total} sequences failed, so there is no score "
            f"({list_failures(failures)}); {RERUN_HINT}"
        )
