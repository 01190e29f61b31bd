"""Evaluation spread over a Ray cluster: one task per sequence, the model loaded once in every worker process.

The chain: names of the sequences -> stored results that still hold -> tasks for the others -> sums -> report -> MLflow.
A sequence that fails is named and does not stop the rest; running the same call again does only what is missing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from corrfractal.console import progress, say
from corrfractal.errors import CorrFractalError
from corrfractal.runtime import ray_session
from corrfractal.scores import Scores

from .config import InferenceConfig
from .evaluation import Davis, Evaluation
from .load import Model, ModelSource, open_model, resolve_model
from .pictures import evaluation_report
from .propagate import make_folder, propagate_video
from .registry import log_measures, log_scores
from .results import Benchmark, Result, Summary

__all__ = ["evaluate", "evaluate_davis", "propagate_video"]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What every task needs besides the name of its sequence."""

    benchmark: Benchmark
    out: Path
    source: ModelSource
    config: InferenceConfig


@dataclass(frozen=True, kw_only=True)
class _Failure:
    name: str
    reason: str


def evaluate_davis(
    data: Path,
    out: Path,
    model: str | None,
    config: InferenceConfig | None = None,
    *,
    workers: int | None = None,
    year: str | None = None,
) -> Evaluation:
    """Propagate and score DAVIS val; write masks, ``scores.json`` and ``report.html`` to ``out``; see ``evaluate``."""
    config, benchmark = config or InferenceConfig(), Davis(data.resolve(), year)
    evaluation = evaluate(benchmark, out, model, config, workers=workers)
    assert isinstance(evaluation, Evaluation)
    evaluation_report(out / "report.html", evaluation, data, out.resolve() / "masks", config.opacity)
    return evaluation


def evaluate(
    benchmark: Benchmark,
    out: Path,
    model: str | None,
    config: InferenceConfig | None = None,
    *,
    workers: int | None = None,
) -> Summary:
    """Propagate and score a data set; write predictions and ``scores.json`` to ``out``.

    Args:
        benchmark: the data set with its protocol.
        model: see ``inference.load.resolve_model``.
        workers: sequences at once; None takes ``config.workers``.

    Raises:
        NotFoundError: no such data set or model.
        CorrFractalError: sequences failed; names each with its reason. The others' results are kept.
    """
    config, out = config or InferenceConfig(), out.resolve()
    names = benchmark.names()
    source = resolve_model(model, out / "model")
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
        _log(summary, benchmark, source.run_id, source.registered, job)
    return summary


def _log(summary: Summary, benchmark: Benchmark, run_id: str, registered: tuple[str, str], job: _Job) -> None:
    """Note the scores on the model version that made them; J and F of DAVIS in the form that the gate reads."""
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
        with ray_session(ray):
            yield from _run_tasks(missing, job, workers)


def _run_tasks(names: list[str], job: _Job, workers: int) -> Iterator[Result | _Failure]:
    """Keep ``workers`` tasks under way; a task whose process dies twice is a failure like any other."""
    resources = ray.cluster_resources()
    window = workers or max(int(resources.get("CPU", 1)), 1)
    task = ray.remote(num_cpus=1, num_gpus=1 if resources.get("GPU") else 0, max_retries=1)(_task)
    waiting = list(reversed(names))
    running: dict[Any, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < window:
                name = waiting.pop()
                running[task.remote(name, job)] = name
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            yield _get(ready, running.pop(ready))
    finally:
        for unfinished in running:
            ray.cancel(unfinished, force=True)


def _get(ready: Any, name: str) -> Result | _Failure:
    try:
        outcome: Result | _Failure = ray.get(ready)
    except ray.exceptions.RayError as exc:
        outcome = _Failure(name=name, reason=f"its worker process died ({str(exc).splitlines()[0]})")
    return outcome


def _task(name: str, job: _Job) -> Result | _Failure:
    """Runs in a worker process, on one core."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        return job.benchmark.evaluate(name, job.out, job.source, _model(job.source), job.config)
    except CorrFractalError as exc:
        return _Failure(name=name, reason=str(exc))


@functools.lru_cache(maxsize=1)
def _model(source: ModelSource) -> Model:
    return open_model(source)


def _line(outcome: Result | _Failure) -> str:
    if isinstance(outcome, _Failure):
        return f"  {outcome.name}: failed, {outcome.reason}"
    return f"  {outcome.name}: {outcome.line}; {outcome.frames} frames, {outcome.seconds / outcome.frames:.2f} s each"


def _refuse_failures(failures: list[_Failure], total: int, out: Path) -> None:
    if failures:
        (out / "scores.json").unlink(missing_ok=True)
        named = "; ".join(f"{failure.name}: {failure.reason}" for failure in failures)
        raise CorrFractalError(
            f"{len(failures)} of {total} sequences failed, so there is no score ({named}); "
            "the others are kept: mend these and run the same command again"
        )
