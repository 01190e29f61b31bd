"""The whole workflow as one job: precompute -> train and register -> evaluate -> report.

Every stage is resumable, so a second call only does what is missing: complete shards are kept,
training resumes from its checkpoint, and scored sequences are not scored again.

Layout of a workflow's folder:

    shards/
    training/
    evaluation/{model,starter,untrained,copy}/
    report.html
    mlflow.db           unless another store is configured
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrfractal.common.console import say
from corrfractal.common.errors import CallError
from corrfractal.files.atomic import write_text
from corrfractal.files.output_guard import refuse_foreign_page, refuse_overlap
from corrfractal.files.storage import Location, is_uri, join, make_folder, place
from corrfractal.network.tracker import FAST, TrackerConfig
from corrfractal.registry.pages import browse_hint
from corrfractal.registry.store import check_store, named_uri, tracking_uri
from corrfractal.runtime.process import cpu_count
from corrfractal.runtime.ray_session import ray_session
from inference.benchmarks.davis import DavisSummary
from inference.config import InferenceConfig
from pipeline.report.build_result import PrecomputeResult
from training.run import TrainingResult

from .config import EvaluationConfig, WorkflowConfig, read_workflow

log = logging.getLogger(__name__)

REPORT = "report.html"
# Models that the trained one is compared with: name in the report -> model reference.
BASELINES = {
    "starter": "starter",
    "colour": "baseline:colour",
    "untrained": "baseline:untrained",
    "copy": "baseline:copy",
}

DEMO_MARK = "# What `corrfractal demo` runs."
DEMO = """\
# What `corrfractal demo` runs. `corrfractal run` with this file does the same.
# Copy it for your own videos.
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
crop = 96
steps = 120
checkpoint_every = 40
picture_every = 40
log_every = 4

[evaluation]
data = "davis"
"""


@dataclass(frozen=True, kw_only=True)
class WorkflowResult:
    """Results of the stages."""

    shards: PrecomputeResult
    training: TrainingResult
    scores: dict[str, DavisSummary]
    """Scores of ``model`` and of each baseline; empty without evaluation."""
    report: Location
    seconds: float


def run(config: Path, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run the workflow of a TOML file, with fields overridden by ``settings`` (``corrfractal
    run``)."""
    workflow = read_workflow(config, settings)
    refuse_overlap(_outputs(workflow), (config,))
    return _print_summary(run_workflow(workflow))


def demo(out: Path) -> dict[str, Any]:
    """Run the workflow on rendered sample videos (``corrfractal demo``).

    Raises:
        CallError: ``out`` is not empty and was not created by this command.
    """
    from cluster.demo.render import render_evaluation_set, render_training_videos

    out = out.absolute()
    config = out / "workflow.toml"
    if not _is_demo_file(config):
        if out.is_dir() and any(out.iterdir()):
            raise CallError(
                f"{out} is not empty and was not created by this command: name a new folder with "
                "--out"
            )
        out.mkdir(parents=True, exist_ok=True)
        # Written before the videos: the file marks the folder as the demo's.
        write_text(config, DEMO)

    # The renderer writes val.txt last, so its presence means that rendering completed.
    if not (out / "davis" / "ImageSets" / "2017" / "val.txt").exists():
        log.info("rendering sample videos from scikit-learn's two photographs")
        render_training_videos(out / "videos", count=8, frames=32)
        render_evaluation_set(out / "davis", sequences=3, frames=16)

    result = run(config)
    say(f"to run it again, or on your own videos: corrfractal run {config}")
    return result


def _is_demo_file(path: Path) -> bool:
    """Whether a workflow file was written by ``demo``."""
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(
        DEMO_MARK
    )


def _outputs(config: WorkflowConfig) -> dict[str, Location | None]:
    """The places that a workflow writes, by their names in messages."""
    names = ("shards", "training", "evaluation", REPORT)
    return {f"the output {name}": place(join(config.out, name)) for name in names}


def run_workflow(config: WorkflowConfig) -> WorkflowResult:
    """Run all stages, or resume them.

    Raises:
        CallError: an output overlaps a source or the evaluation set, or the report would replace a
            file that another program wrote; or the folder is at a URI, where the default store
            cannot be.
    """
    from cluster.demo.workflow_report import write_workflow_report
    from pipeline.run import precompute
    from training.run import train

    started = time.monotonic()
    out = place(config.out)
    report = place(join(out, REPORT))
    inputs: list[str | Path] = list(config.sources)
    if config.evaluation is not None:
        inputs.append(Path(config.evaluation.data))
    refuse_overlap(_outputs(config), inputs)
    refuse_foreign_page(report)
    # An unusable store is reported now, not after hours of work.
    uri = _tracking_uri(config, out)
    make_folder(out)
    check_store(uri, write=True)
    # Evaluation finds the registry through this variable.
    os.environ["MLFLOW_TRACKING_URI"] = uri

    tasks = config.tasks or config.workers
    with ray_session(max(config.workers, cpu_count())):
        log.info("1 precompute: videos -> shards of clips and pseudo-labels")
        shards = precompute(
            config.sources, place(join(out, "shards")), config.precompute, workers=tasks
        )
        log.info(
            f"  {shards.samples} clips of {shards.sampled} videos; data set {shards.digest[:12]}"
        )

        log.info("2 train: shards -> a registered model")
        training = train(
            place(join(out, "shards")),
            place(join(out, "training")),
            config.training,
            tracking_uri=uri,
            workers=config.workers,
            use_gpu=config.use_gpu,
        )
        metrics = training.metrics
        log.info(
            f"  error {metrics['error']:.1%}, copying labels {metrics['copy_error']:.1%}; "
            f"registered as {training.model.uri}"
        )

        scores = {}
        if config.evaluation is not None:
            log.info("3 evaluate: propagate the first masks, score J and F")
            folder = join(out, "evaluation")
            scores = _evaluate(config.evaluation, folder, training.model.uri, tasks)

    log.info("4 report")
    write_workflow_report(report, out, shards, training, scores, config.evaluation)
    return WorkflowResult(
        shards=shards,
        training=training,
        scores=scores,
        report=report,
        seconds=time.monotonic() - started,
    )


def _tracking_uri(config: WorkflowConfig, out: Location) -> str:
    if not is_uri(out):
        return tracking_uri(config.tracking_uri, folder=Path(out))
    named = named_uri(config.tracking_uri)
    if named is None:
        raise CallError(
            f"out is {out}, where MLflow's data base cannot be: name a server, or a local file as "
            "sqlite:///FILE, with tracking_uri in the workflow's file or MLFLOW_TRACKING_URI"
        )
    return named


def _evaluate(
    config: EvaluationConfig, out: str, model: str, workers: int
) -> dict[str, DavisSummary]:
    """Score the model and the baselines, each into its own folder of ``out``."""
    from inference.evaluate import evaluate_davis

    settings = InferenceConfig(tracker=FAST if config.fast else TrackerConfig())
    scores = {}
    for name, reference in {"model": model, **BASELINES}.items():
        log.info(f"  {name}")
        scores[name] = evaluate_davis(
            Path(config.data), place(join(out, name)), reference, settings, workers=workers
        )
    return scores


def _print_summary(result: WorkflowResult) -> dict[str, Any]:
    """Print where the outputs are; return the results as plain values for ``--json``."""
    training = result.training
    if result.scores:
        scores = (f"{name} {100 * score.JF:.1f} %" for name, score in result.scores.items())
        say(f"J&F: {', '.join(scores)}")
    say(f"report: {result.report}")
    say(
        f"model:  {training.model.uri} ({', '.join(training.model.aliases)}), {training.model_file}"
    )
    say(f"MLflow: {browse_hint(training.tracking_uri)}")
    say(f"done in {result.seconds:.0f} s")
    return {
        "report": str(result.report),
        "model": training.model.uri,
        "model_file": str(training.model_file),
        "tracking_uri": training.tracking_uri,
        "shards_digest": result.shards.digest,
        "steps": training.steps,
        "metrics": training.metrics,
        "scores": {name: score.to_dict() for name, score in result.scores.items()},
        "seconds": result.seconds,
    }
