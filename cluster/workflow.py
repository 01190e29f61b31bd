"""The whole workflow as one job: precompute -> train and register -> evaluate -> report.

Every stage resumes by itself, so calling the workflow again does what is missing and nothing else:
whole shards stay, training resumes from its checkpoint, scored sequences are not scored again. The
folder of a workflow:

    shards/  training/  evaluation/{model,starter,untrained,copy}/  report.html
    mlflow.db (unless another store is named)
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrfractal.common.console import say
from corrfractal.common.errors import CallError
from corrfractal.common.files import write_text
from corrfractal.common.output_guard import refuse_foreign_page, refuse_overlap
from corrfractal.common.process import cpu_count
from corrfractal.common.ray_session import ray_session
from corrfractal.network.tracker import FAST, TrackerConfig
from corrfractal.registry.store import check_store, tracking_uri
from inference.benchmarks.davis import DavisSummary
from inference.config import InferenceConfig
from pipeline.report.build_result import PrecomputeResult
from training.run import TrainingResult

from .config import EvaluationConfig, WorkflowConfig, read_workflow

log = logging.getLogger(__name__)

REPORT = "report.html"
RIVALS = {"starter": "starter", "untrained": "baseline:untrained", "copy": "baseline:copy"}

DEMO_MARK = "# What `corrfractal demo` runs."
DEMO = """\
# What `corrfractal demo` runs. `corrfractal run` with this file does the same; copy it for your own videos.
sources = ["videos"]
out = "."
workers = 2

[precompute]
size = 128
videos_per_shard = 2
[precompute.clip]
fps = 12.0
hop = 4

[training]
profile = "cpu"
batch_size = 4
crop = 96
steps = 120
learning_rate = 2e-3
checkpoint_every = 40
picture_every = 40
log_every = 4

[evaluation]
data = "davis"
"""


@dataclass(frozen=True, kw_only=True)
class WorkflowResult:
    """What the stages returned; ``scores`` by name: the model's, and its rivals'."""

    shards: PrecomputeResult
    training: TrainingResult
    scores: dict[str, DavisSummary]
    report: Path
    seconds: float


def run(config: Path) -> dict[str, Any]:
    """The workflow of a TOML file (``corrfractal run``)."""
    workflow = read_workflow(config)
    refuse_overlap(_places(workflow), (config,))
    return _print_summary(run_workflow(workflow))


def demo(out: Path) -> dict[str, Any]:
    """The workflow on rendered sample videos (``corrfractal demo``)."""
    from cluster.demo.render import render_evaluation_set, render_training_videos

    out = out.absolute()
    config = out / "workflow.toml"
    if not config.is_file() or not config.read_text(encoding="utf-8", errors="replace").startswith(
        DEMO_MARK
    ):
        if out.is_dir() and any(out.iterdir()):
            raise CallError(
                f"{out} is not empty, and this command has not written it: name a new folder with "
                "--out"
            )
        out.mkdir(parents=True, exist_ok=True)
        write_text(config, DEMO)  # first: it marks the folder as the demo's
    if not (out / "davis" / "ImageSets" / "2017" / "val.txt").exists():  # written last
        log.info("rendering sample videos from scikit-learn's two photographs")
        render_training_videos(out / "videos", count=8, frames=32)
        render_evaluation_set(out / "davis", sequences=3, frames=16)
    result = run(config)
    say(f"the same again, or on your own videos: corrfractal run {config}")
    return result


def _places(config: WorkflowConfig) -> dict[str, Path]:
    """What a workflow writes, by a name for messages."""
    out = Path(config.out)
    return {
        f"the output {name}": out / name for name in ("shards", "training", "evaluation", REPORT)
    }


def run_workflow(config: WorkflowConfig) -> WorkflowResult:
    """Run all stages, each where it stopped.

    Raises:
        CallError: an output touches a source or the evaluation set, or the report would replace a
        file of others.
    """

    from cluster.demo.workflow_report import write_workflow_report
    from pipeline.run import precompute
    from training.run import train

    started, out = time.monotonic(), Path(config.out)
    evaluation = config.evaluation
    refuse_overlap(
        _places(config),
        (*config.sources, *(() if evaluation is None else (Path(evaluation.data),))),
    )
    refuse_foreign_page(out / REPORT)
    out.mkdir(parents=True, exist_ok=True)
    uri = tracking_uri(config.tracking_uri, folder=out)
    check_store(uri, write=True)  # before hours of work, not after
    os.environ["MLFLOW_TRACKING_URI"] = uri  # evaluation finds the registry by it
    tasks = config.tasks or config.workers
    with ray_session(max(config.workers, cpu_count())):
        log.info("1 precompute: videos -> shards of clips and pseudo-labels")
        shards = precompute(config.sources, out / "shards", config.precompute, workers=tasks)
        log.info(
            f"  {shards.samples} clips of {shards.sampled} videos; data set {shards.digest[:12]}"
        )

        log.info("2 train: shards -> a registered model")
        training = train(
            out / "shards", out / "training", config.training,
            tracking_uri=uri, workers=config.workers, use_gpu=config.use_gpu,
        )  # fmt: skip
        m = training.metrics
        log.info(
            f"  error {m['error']:.1%}, copying labels {m['copy_error']:.1%}; registered as "
            f"{training.model.uri}"
        )

        scores = {}
        if config.evaluation is not None:
            log.info("3 evaluate: propagate the first masks, score J and F")
            scores = _evaluate(config.evaluation, out / "evaluation", training.model.uri, tasks)
    log.info("4 report")
    report = out / REPORT
    write_workflow_report(report, out, shards, training, scores, config.evaluation)
    return WorkflowResult(
        shards=shards,
        training=training,
        scores=scores,
        report=report,
        seconds=time.monotonic() - started,
    )


def _evaluate(
    config: EvaluationConfig, out: Path, model: str, workers: int
) -> dict[str, DavisSummary]:
    from inference.evaluate import evaluate_davis

    settings = InferenceConfig(tracker=FAST if config.fast else TrackerConfig())
    scores = {}
    for name, what in {"model": model, **RIVALS}.items():
        log.info(f"  {name}")
        scores[name] = evaluate_davis(
            Path(config.data), out / name, what, settings, workers=workers
        )
    return scores


def _print_summary(result: WorkflowResult) -> dict[str, Any]:
    """Say where everything is, and give the figures as plain values."""
    training = result.training
    if result.scores:
        say("J&F: " + ", ".join(f"{name} {100 * e.JF:.1f} %" for name, e in result.scores.items()))
    say(f"report: {result.report}")
    say(
        f"model:  {training.model.uri} ({', '.join(training.model.aliases)}), {training.model_file}"
    )
    say(f"MLflow: mlflow ui --backend-store-uri {shlex.quote(training.tracking_uri)}")
    say(f"done in {result.seconds:.0f} s")
    return {
        "report": str(result.report),
        "model": training.model.uri,
        "model_file": str(training.model_file),
        "tracking_uri": training.tracking_uri,
        "shards_digest": result.shards.digest,
        "steps": training.steps,
        "metrics": training.metrics,
        "scores": {name: evaluation.to_dict() for name, evaluation in result.scores.items()},
        "seconds": result.seconds,
    }
