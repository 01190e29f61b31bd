"""Evaluation of a data set on a Ray cluster: one task per sequence, one model per worker process.

    1. check   the outputs touch no input and replace no file of another origin
    2. model   weights are copied to where all workers can read them
    3. run     stored results are reused; the other sequences are predicted and scored
    4. sum up  scores.json, and the registry if the model is registered
    5. report  report.html

A sequence that fails is named and does not stop the others. Rerun the command to resume.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from corrfractal.common.console import progress
from corrfractal.common.errors import CorrFractalError
from corrfractal.files.mirror import Mirror, private_folder
from corrfractal.files.output_guard import refuse_foreign_page, refuse_overlap
from corrfractal.files.storage import Location, is_uri
from corrfractal.files.working_copy import WorkingCopy, working_copy
from corrfractal.registry.score_log import log_measures, log_scores
from corrfractal.registry.scores import Scores
from corrfractal.runtime.process import keep_freed_memory
from corrfractal.runtime.ray_session import ray_session
from inference.benchmarks.base import AnyBenchmark, AnyPicturedBenchmark, Benchmark
from inference.benchmarks.davis import Davis, DavisSummary
from inference.benchmarks.result_files import (
    SCORES,
    result_file,
    sequence_note,
    sequence_note_file,
    summary_note,
)
from inference.benchmarks.results import Result, Summary
from inference.propagation.outputs import make_folder
from inference.reports.benchmark_report import benchmark_report
from inference.reports.davis_report import evaluation_report, read_evaluation
from inference.reports.model_facts import describe_model
from inference.reports.sections import ReportSettings

from .config import InferenceConfig
from .load import ModelSource
from .worker_tasks import (
    RERUN_HINT,
    Failure,
    cached_model,
    fetched_model,
    list_failures,
    resolve_shared_model,
    run_named_jobs,
    use_one_core,
)

REPORT = "report.html"
WORK = "evaluation"

T = TypeVar("T", bound=Summary)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """What every task of an evaluation needs besides the name of its sequence."""

    benchmark: AnyBenchmark
    out: Path
    source: ModelSource
    config: InferenceConfig
    uri: str | None = None
    """The folder at a URI of which ``out`` is the driver's copy."""

    @property
    def shown(self) -> str:
        """The folder as the user knows it."""
        return self.uri or str(self.out)


def evaluate_davis(
    data: Path,
    out: Location,
    model: str | None,
    config: InferenceConfig | None = None,
    *,
    workers: int | None = None,
    year: str | None = None,
    compare: Path | None = None,
    overwrite: bool = False,
) -> DavisSummary:
    """Evaluate DAVIS val, as ``evaluate`` does, with the report of DAVIS.

    Args:
        data: folder with JPEGImages, Annotations and ImageSets.
        out: folder for masks, ``scores.json`` and ``report.html``, local or a URI.
        model: see ``inference.load.resolve_model``.
        config: of the propagation.
        workers: sequences at once; None: ``config.workers``.
        year: 2017 or 2016; None: the year whose lists exist, 2017 first.
        compare: folder of another evaluation of the same data set, for comparison in the report.
        overwrite: replace files of another origin.

    Raises:
        CallError, NotFoundError, CorrFractalError: as ``evaluate``.
    """
    config = config or InferenceConfig()
    benchmark = Davis(data.resolve(), year)
    with working_copy(out, WORK) as copy:
        folder = copy.folder
        _check_outputs(benchmark, folder, (data, model and Path(model), compare), overwrite)
        baseline = None if compare is None else read_evaluation(compare)

        source = _shared_model(model, copy, overwrite)
        summary, _ = _run(benchmark, copy, source, config, workers)

        settings = ReportSettings(
            config=config, model=describe_model(source), digest=benchmark.digest()
        )
        evaluation_report(folder / REPORT, summary, benchmark, settings, baseline)
    return replace(summary, out=_place(out))


def evaluate(
    benchmark: AnyPicturedBenchmark,
    out: Location,
    model: str | None,
    config: InferenceConfig | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> Summary:
    """Propagate and score a data set; write predictions, ``scores.json`` and ``report.html``.

    Args:
        benchmark: the data set with its protocol.
        out: folder for what is written, local or a URI.
        model: see ``inference.load.resolve_model``.
        config: of the propagation.
        workers: sequences at once; None: ``config.workers``.
        overwrite: replace files of another origin.

    Raises:
        CallError: ``out`` touches the data set or the model, or has files of another origin where
            results are written.
        NotFoundError: no such data set or model.
        CorrFractalError: sequences failed; names each with its reason. The results of the others
            are kept.
    """
    config = config or InferenceConfig()
    with working_copy(out, WORK) as copy:
        folder = copy.folder
        _check_outputs(benchmark, folder, (benchmark.data, model and Path(model)), overwrite)

        source = _shared_model(model, copy, overwrite)
        summary: Summary
        summary, results = _run(benchmark, copy, source, config, workers)

        settings = ReportSettings(config=config, model=describe_model(source))
        benchmark_report(folder / REPORT, summary, results, benchmark, settings)
    return replace(summary, out=_place(out))


def _place(out: Location) -> Location:
    return out if is_uri(out) else Path(out).resolve()


def _shared_model(model: str | None, copy: WorkingCopy, overwrite: bool) -> ModelSource:
    """Find a model, and put it where all workers can read it."""
    folder = copy.folder.resolve()
    source = resolve_shared_model(model, folder, overwrite, copy=copy.uri is not None)
    copy.publish()
    return source


def _check_outputs(
    benchmark: AnyBenchmark, out: Path, inputs: Sequence[Path | str | None], overwrite: bool
) -> None:
    """Check that ``out`` touches no input and has no file of another origin where results are
    written. Nothing is written.

    Raises:
        CallError: names the first that does.
    """
    # Names first: the user should learn that a folder is no data set before anything else.
    names = benchmark.names()

    parts = list(out.iterdir()) if out.is_dir() else []
    links = {f"--out {part.name}": part for part in parts if part.is_symlink()}
    refuse_overlap({"--out": out, **links}, inputs)

    refuse_foreign_page(out / REPORT, overwrite=overwrite)
    summary_note(out).refuse_foreign([out / SCORES], overwrite=overwrite)
    for name in names:
        try:
            predictions = benchmark.predictions(name, out)
        except CorrFractalError:
            continue  # reported when the sequence is evaluated
        files = [result_file(out, name), *predictions]
        sequence_note(out, name).refuse_foreign(files, overwrite=overwrite)


def _run(
    benchmark: Benchmark[Any, Any, Any, T],
    copy: WorkingCopy,
    source: ModelSource,
    config: InferenceConfig,
    workers: int | None,
) -> tuple[T, list[Result[Any]]]:
    """Evaluate all sequences and sum them up; results are in the order of the data set."""
    names = benchmark.names()
    out = copy.folder.resolve()
    make_folder(out)
    job = EvaluationJob(benchmark=benchmark, out=out, source=source, config=config, uri=copy.uri)
    workers = config.workers if workers is None else workers

    results: dict[str, Result[Any]] = {}
    failures: list[Failure] = []
    with progress("evaluate", len(names)) as advance:
        for outcome in _evaluate_sequences(names, job, workers):
            if isinstance(outcome, Failure):
                failures.append(outcome)
                log.info(f"  {outcome.name}: failed, {outcome.reason}")
            else:
                if copy.uri is not None:
                    copy.fetch(_files_of(outcome.name, benchmark))
                results[outcome.name] = outcome
                seconds = outcome.seconds / outcome.frames
                log.info(
                    f"  {outcome.name}: {outcome.scores.line}; {outcome.frames} frames, "
                    f"{seconds:.2f} s each"
                )
            advance(1)

    if failures:
        # Scores of an earlier run would not be those of the stored results any more.
        summary_note(out).clear(lambda path: path.name == SCORES)
        raise CorrFractalError(
            f"{len(failures)} of {len(names)} sequences failed, so there is no score "
            f"({list_failures(failures)}); {RERUN_HINT}"
        )

    in_order = [results[name] for name in names]
    summary = benchmark.summarize(in_order, source, out)
    _register_scores(summary, job)
    return summary, in_order


def _evaluate_sequences(
    names: Sequence[str], job: EvaluationJob, workers: int
) -> Iterator[Result[Any] | Failure]:
    """One outcome per sequence: stored results first, then the others as their tasks end."""
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

    # Ray takes seconds to start: not if everything is stored.
    if missing:
        with ray_session():
            tasks = {name: (name, job) for name in missing}
            for _, outcome in run_named_jobs(_evaluate_task, tasks, workers):
                yield outcome


def _evaluate_task(task: tuple[str, EvaluationJob]) -> Result[Any] | Failure:
    """Runs in a worker process, on one core."""
    name, job = task
    use_one_core()
    keep_freed_memory()
    try:
        if job.uri is not None:
            return _evaluate_at(name, job, job.uri)
        model = cached_model(job.source)
        return job.benchmark.evaluate(name, job.out, job.source, model, job.config)
    except CorrFractalError as exc:
        return Failure(name=name, reason=str(exc))
    except OSError as exc:
        if job.uri is None:
            raise
        return Failure(name=name, reason=f"{job.uri}: {exc}")


def _evaluate_at(name: str, job: EvaluationJob, uri: str) -> Result[Any]:
    """Evaluate a sequence on a machine that shares only the store, and publish its files: their
    record first, so that the next run knows them as its own."""
    with private_folder() as folder:
        mirror = Mirror(folder, uri)
        record, *files = _files_of(name, job.benchmark)
        mirror.fetch(record)
        source = fetched_model(job.source, job.out, uri)
        model = cached_model(source)
        result = job.benchmark.evaluate(name, folder, source, model, job.config)
        mirror.publish([record, *files])
        return result


def _files_of(name: str, benchmark: AnyBenchmark) -> list[str]:
    """What an evaluation writes for a sequence, relative to its folder: the record of the others
    first, the result last."""
    top = Path()
    paths = [
        sequence_note_file(top, name),
        *benchmark.predictions(name, top),
        result_file(top, name),
    ]
    return [path.as_posix() for path in paths]


def _register_scores(summary: Summary, job: EvaluationJob) -> None:
    """Store the scores with the registered version of the model, if it has one. The registry's gate
    reads those of DAVIS, which therefore carry the identity of set, settings and weights."""
    source = job.source
    benchmark = job.benchmark
    if source.registered is None or source.run_id is None:
        return
    try:
        if isinstance(summary, DavisSummary) and isinstance(benchmark, Davis):
            scores = Scores(
                dataset=benchmark.dataset,
                set_digest=benchmark.digest(),
                settings=job.config.digest,
                weights=source.digest,
                sequences=summary.sequences,
                objects=len(summary.objects),
                J=summary.mean("J"),
                F=summary.mean("F"),
                at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            log_scores(source.run_id, source.registered, scores, summary.to_dict())
        else:
            measures = {**summary.measures(), "sequences": summary.sequences}
            dataset = benchmark.dataset
            log_measures(source.run_id, source.registered, dataset, measures, summary.to_dict())
    except CorrFractalError as exc:
        # The scores may have taken hours: an unreachable registry must not fail the evaluation.
        log.warning(
            "the scores are in %s, but not in the registry: %s. Rerun the command to add them",
            job.shown,
            exc,
        )
