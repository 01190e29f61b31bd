"""Write what MLflow's pages of a run and of a registered version say, in Markdown.

The text follows from the store alone: the run's parameters, tags and metrics, its copy of the data
set's manifest, and the version's tags. So any command that adds something, such as scores, writes
it again. It follows ``MARK``; what a user wrote above that line is kept, and so is a text without
it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from corrfractal.common.errors import CorrFractalError
from corrfractal.shards.index import SOURCES, Index
from corrfractal.shards.manifest import MANIFEST, Manifest, SourceEntry, load_manifest

from .markdown import bullets, escape
from .mlflow_errors import first_line, mlflow_errors
from .names import (
    CHECKPOINT_SHA256_TAG,
    CHECKPOINT_STEP_TAG,
    COMMIT_TAG,
    DIGEST_TAG,
    DIRTY_TAG,
    PROJECT,
    SHARDS_PATH_TAG,
    STAGE_TAG,
    UNKNOWN,
)
from .provenance import download_copy
from .versions import ModelVersion, find_version

MARK = "[//]: # (Written by corrfractal and replaced from here on; text above this line is kept)"
"""A link definition that nothing refers to: Markdown shows nothing for it."""
LONGEST = 5000
"""Characters of a version's description; PostgreSQL refuses longer ones."""
SHOWN_SOURCES = 4
SHOWN_SCORES = 4
READ_SOURCES = 100_000
"""The list of sources is read for the names of the damaged ones up to this length."""

ABOUT = (
    "Dense video correspondence, learned without labels: the network propagates the masks of a "
    "first frame through a video."
)
RECIPE = {
    "references": "preset",
    "steps": "steps",
    "batch_size": "batch size",
    "samples": "clips that are long enough",
    "workers": "workers",
    "learning_rate": "learning rate",
    "network.width": "network width",
    "network.embedding_channels": "embedding channels",
    "crop": "crop, pixels",
    "precision": "precision",
    "seed": "seed",
}
"""Parameters of a run that a page shows, with their names there."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the store knows of a run.

    Attributes:
        run: MLflow's record.
        manifest: of its data set; None if the run has no readable copy.
        lost: the first quarantined and rejected sources.
    """

    run: Any
    manifest: Manifest | None
    lost: tuple[SourceEntry, ...]

    @property
    def tags(self) -> Mapping[str, str]:
        """Of the run."""
        tags: Mapping[str, str] = self.run.data.tags
        return tags

    @property
    def data_set(self) -> str:
        """Name of the data set: the last part of its folder."""
        return Path(self.tags.get(SHARDS_PATH_TAG, UNKNOWN)).name or "shards"


def write_run_page(run_id: str) -> None:
    """Write the description of a run that has no registered version. A failure is logged."""
    try:
        _write_run_page(read_run(run_id), None)
    except CorrFractalError as exc:
        log.warning("the description of the run %s was not written: %s", run_id, first_line(exc))


def write_pages(model: str, uri: str) -> None:
    """Write the descriptions of a registered version and of its run.

    A failure is logged, since nothing but these texts depends on it.

    Args:
        model: as in ``versions.parse_model_name``.
        uri: MLflow store.
    """
    try:
        version = find_version(model, uri)
        facts = read_run(version.run_id)
        _write_version_page(version, facts)
        _write_run_page(facts, version)
    except CorrFractalError as exc:
        log.warning("the description of %s was not written: %s", model, first_line(exc))


def browse_hint(uri: str) -> str:
    """How to see the runs of MLflow's current store, ``uri`` without its password, in a browser."""
    import mlflow

    page = ""
    with contextlib.suppress(CorrFractalError), mlflow_errors():
        experiment = mlflow.get_experiment_by_name(PROJECT)
        # Without the parameter, MLflow 3.17 shows each experiment as the user left the last one, at
        # first with the traces of GenAI.
        if experiment is not None:
            page = f"#/experiments/{experiment.experiment_id}?workflowType=machine_learning"
    if uri.startswith(("http://", "https://")):
        return f"{uri.rstrip('/')}/{page}"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}, then http://127.0.0.1:5000/{page}"


def read_run(run_id: str) -> RunFacts:
    """Read a run, and its copies of manifest and list of sources, from MLflow's current store.

    Raises:
        CorrFractalError: there is no such run, or the store does not answer.
    """
    import mlflow

    with mlflow_errors(model=run_id):
        run = mlflow.MlflowClient().get_run(run_id)
    try:
        with tempfile.TemporaryDirectory() as folder:
            download_copy(run_id, MANIFEST, folder)
            manifest = load_manifest(folder)
            lost = tuple(_lost_sources(run_id, folder, manifest))
    # Earlier versions stored other files, and artefacts can be deleted.
    except CorrFractalError as exc:
        log.info("the run %s has no readable copy of its manifest: %s", run_id, first_line(exc))
        return RunFacts(run=run, manifest=None, lost=())
    return RunFacts(run=run, manifest=manifest, lost=lost)


def version_text(version: ModelVersion, facts: RunFacts) -> str:
    """The description of a registered version."""
    return "\n\n".join(
        [
            ABOUT,
            *model_sections(version, facts),
            "### How to load",
            "`MLFLOW_TRACKING_URI` must name this store, unless it is `mlflow.db` of the working "
            "directory.",
            usage_text(version.uri),
            _code("sh", f"corrfractal models export {_model_word(version)} --out model"),
        ]
    )


def run_text(facts: RunFacts, version: ModelVersion | None) -> str:
    """The description of a run, of ``train`` or of ``precompute``."""
    if facts.tags.get(STAGE_TAG) == "precompute":
        folder = _shell_word(facts.tags.get(SHARDS_PATH_TAG, "SHARDS"), "SHARDS")
        parts = [
            "Pseudo-labels of videos, written as WebDataset shards.",
            "### Data set",
            data_set_text(facts),
            "### Train on it",
            _code("sh", f"corrfractal train {folder} --out runs/mine"),
            "### Code",
            bullets(_code_facts(facts)),
        ]
        return "\n\n".join(parts)

    result = "The model is registered when the run is complete."
    if version is not None:
        result = f"The result is version {version.version} of {escape(version.name)}."
    return "\n\n".join(
        [
            f"Training of a network for dense video correspondence, without labels. {result}",
            *model_sections(version, facts),
            "### Artefacts",
            bullets(
                [
                    (
                        "pictures",
                        "reference and target frame, their labels, the reconstructions of both "
                        "modules, the embeddings as colours; a row per sample",
                    ),
                    ("metrics.jsonl", "every logged step"),
                    ("attempts.jsonl", "every start: host, workers, versions"),
                    ("manifest.json, index", "the data set: shards and videos"),
                    ("environment.txt", "installed packages"),
                ]
            ),
        ]
    )


def model_sections(version: ModelVersion | None, facts: RunFacts) -> list[str]:
    """Headings and texts that the pages of versions and runs and the model card share."""
    sections = {
        "Data set": data_set_text(facts),
        "Recipe": _recipe(facts),
        "Training": training_text(facts.run.data.metrics, facts.run.data.params),
        "Scores": scores_text(version, facts),
        "Lineage": bullets(_lineage(version, facts)),
    }
    parts = []
    for heading, text in sections.items():
        if text:
            parts += [f"### {heading}", text]
    return parts


def data_set_text(facts: RunFacts) -> str:
    """Name, digest, counts by outcome, and the first damaged sources."""
    digest = facts.tags.get(DIGEST_TAG, UNKNOWN)
    lines = [("name", escape(facts.data_set)), ("digest", escape(digest))]
    if facts.manifest is None:
        return bullets([*lines, ("contents", "unknown: the run has no copy of the manifest")])

    counts = facts.manifest.statistics
    lines += [
        (
            "clips",
            f"{counts.samples:,} with {counts.frames:,} frames, {counts.bytes / 1e6:,.1f} MB",
        ),
        (
            "videos",
            f"{counts.sources:,}: {counts.sampled:,} sampled, {counts.quarantined:,} quarantined, "
            f"{counts.rejected:,} rejected",
        ),
    ]
    text = bullets(lines)
    for source in facts.lost:
        reason = escape(source.reason or UNKNOWN, 120)
        name = escape(source.uri.rpartition("/")[2])
        text += f"\n- {source.outcome}: {name}: {reason}"
        if source.frames_stored:
            text += f"; {source.frames_stored} frames kept"
    others = counts.quarantined + counts.rejected - len(facts.lost)
    if others:
        text += f"\n- {others:,} other quarantined or rejected videos: {SOURCES} of the run"
    return text


def training_text(metrics: Mapping[str, float], params: Mapping[str, str]) -> str:
    """The last values of what training logs; empty if it has logged nothing."""
    lines = []
    if "loss" in metrics:
        text = f"{metrics['loss']:.4g}"
        if "loss_a" in metrics and "loss_c" in metrics:
            text += f"; appearance {metrics['loss_a']:.4g}, correspondence {metrics['loss_c']:.4g}"
        lines.append(("loss", text))
    if "error" in metrics and "copy_error" in metrics:
        error = (
            f"{metrics['error']:.1%}; copying the reference's labels gives "
            f"{metrics['copy_error']:.1%}"
        )
        lines.append(("error", error))
    if "JF" in metrics:
        name = escape(Path(params.get("evaluate_on", UNKNOWN)).name)
        lines.append((f"J&amp;F on {name} in training", f"{100 * metrics['JF']:.1f}"))
    if "samples_per_second" in metrics:
        rate = f"{metrics['samples_per_second']:.3g} samples/s"
        if "data_wait" in metrics:
            rate += f", {metrics['data_wait']:.1%} of the time waiting for data"
        lines.append(("speed", rate))
    return bullets(lines)


def scores_text(version: ModelVersion | None, facts: RunFacts) -> str:
    """All evaluations, each with the set that it was measured on; empty for a run alone."""
    if version is None:
        return ""
    own = [s for s in version.scores if s.weights == version.weights_sha256]
    own.sort(key=lambda s: s.at, reverse=True)
    lines = [
        (
            escape(s.dataset),
            f"J&amp;F {100 * s.JF:.1f} (J {100 * s.J:.1f}, F {100 * s.F:.1f}); {s.sequences} "
            f"sequences, {s.objects} objects; files {escape(s.set_digest[:12])}, settings "
            f"{escape(s.settings[:12])}; {escape(s.at[:10])}",
        )
        for s in own[:SHOWN_SCORES]
    ]
    others = measures_by_set(facts.run.data.metrics)
    for name in sorted(others.keys() - {s.dataset for s in version.scores})[:SHOWN_SCORES]:
        measures = (f"{escape(key)} {value:.4g}" for key, value in others[name].items())
        lines.append((escape(name), ", ".join(measures)))
    parts = [bullets(lines)] if lines else []
    if len(own) > SHOWN_SCORES:
        parts.append(f"{len(own) - SHOWN_SCORES} older ones: `corrfractal models show`.")
    if len(own) < len(version.scores):
        parts.append(f"{len(version.scores) - len(own)} scores are of other weights.")
    return "\n\n".join(parts) or "It has not been evaluated."


def measures_by_set(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Evaluation set -> measure -> value, of the metrics ``SET/MEASURE`` of a run."""
    sets: dict[str, dict[str, float]] = {}
    for key, value in sorted(metrics.items()):
        name, slash, measure = key.partition("/")
        if slash and name != "system":
            sets.setdefault(name, {})[measure] = value
    return sets


def _recipe(facts: RunFacts) -> str:
    params = facts.run.data.params
    lines = [(name, escape(params[key])) for key, name in RECIPE.items() if key in params]
    return bullets(lines)


def _lineage(version: ModelVersion | None, facts: RunFacts) -> Iterator[tuple[str, str]]:
    info = facts.run.info
    yield "run", f"{escape(info.run_name)}, {escape(info.run_id)}"
    yield from _code_facts(facts)
    yield "shards", f"{escape(facts.tags.get(DIGEST_TAG, UNKNOWN))}"
    if version is not None:
        tags = version.tags
        step = escape(tags.get(CHECKPOINT_STEP_TAG, UNKNOWN))
        sha256 = escape(tags.get(CHECKPOINT_SHA256_TAG, UNKNOWN))
        yield "checkpoint", f"step {step}, SHA-256 {sha256}"
        yield "weights", f"SHA-256 {escape(version.weights_sha256)}"
        yield "videos and shards", f"`corrfractal lineage {_model_word(version)}`"


def _code_facts(facts: RunFacts) -> Iterator[tuple[str, str]]:
    commit = escape(facts.tags.get(COMMIT_TAG, UNKNOWN))
    if facts.tags.get(DIRTY_TAG) == "true":
        commit += ", with uncommitted changes"
    yield "code", commit
    prefix = "version."
    versions = {
        key.removeprefix(prefix): value
        for key, value in facts.tags.items()
        if key.startswith(prefix)
    }
    yield (
        "versions",
        ", ".join(f"{escape(key)} {escape(versions[key])}" for key in sorted(versions)),
    )


def usage_text(model: str) -> str:
    """How to use a model, by its name or file, in Python and on the command line."""
    python = f"""\
from corrfractal import CorrFractal

model = CorrFractal.load({json.dumps(model)})
for frame in model.propagate("video.mp4", "first-mask.png"):
    print(frame.index, frame.mask.shape)"""
    shell = (
        f"corrfractal propagate video.mp4 --mask first-mask.png --out masks "
        f"--model {_shell_word(model, 'MODEL')}"
    )
    return "\n\n".join([_code("python", python), _code("sh", shell)])


def _model_word(version: ModelVersion) -> str:
    """A version as the argument of a command."""
    return _shell_word(f"{version.name}/{version.version}", "MODEL")


def _shell_word(text: str, placeholder: str) -> str:
    """An argument inside a block of code; the placeholder for one that could end the block."""
    return shlex.quote(text) if text.isprintable() and "`" not in text else placeholder


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _write_version_page(version: ModelVersion, facts: RunFacts) -> None:
    import mlflow

    with mlflow_errors():
        client = mlflow.MlflowClient()
        name, number = version.name, str(version.version)
        before = client.get_model_version(name, number).description
        text = _merge(before, version_text(version, facts), version.uri)
        if text is not None:
            client.update_model_version(name, number, text)


def _write_run_page(facts: RunFacts, version: ModelVersion | None) -> None:
    import mlflow
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

    run_id = facts.run.info.run_id
    text = _merge(facts.tags.get(MLFLOW_RUN_NOTE), run_text(facts, version), f"run {run_id}")
    if text is not None:
        with mlflow_errors():
            mlflow.MlflowClient().set_tag(run_id, MLFLOW_RUN_NOTE, text)


def _merge(before: str | None, text: str, where: str) -> str | None:
    """The new text below what a user wrote; None if there is nothing to write."""
    own, mark, _ = (before or "").partition(MARK)
    if own.strip() and not mark:
        log.info("the description of %s was written by hand and stays", where)
        return None
    merged = f"{own.rstrip()}\n\n{MARK}\n\n{text}".lstrip()
    if len(merged) > LONGEST:
        log.info("the description of %s has no room for %d characters", where, len(merged))
        return None
    return None if merged == before else merged


def _lost_sources(run_id: str, folder: str, manifest: Manifest) -> Iterator[SourceEntry]:
    counts = manifest.statistics
    rows = max((file.rows for file in manifest.index if file.name == SOURCES), default=0)
    if counts.quarantined + counts.rejected and rows <= READ_SOURCES:
        download_copy(run_id, SOURCES, folder)
        yield from islice(Index(folder, manifest).lost_sources(), SHOWN_SOURCES)
