"""Lineage, both ways: registered model -> run -> checkpoint -> manifest -> shards -> videos, and
back.

Everything is read from the tracking store: tags of versions and runs, and the manifest and the
shard map that each run keeps of its data set (``corrfractal.registry.connection.log_shards``). So it answers
when the shards' folder is gone.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from corrfractal.common.errors import CorrFractalError, NotFoundError
from corrfractal.common.files import file_sha256
from corrfractal.network import artifact
from corrfractal.shards.manifest import MANIFEST, ShardEntry, SourceEntry, load_manifest

from .connection import mlflow_errors
from .provenance import DIGEST_TAG, SHARD_MAP
from .store_moves import CHECKPOINT_TAG, EXPERIMENT
from .versions import WEIGHTS_TAG, ModelVersion, list_models, show


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that made or used a data set; ``stage`` is ``precompute`` or ``train``."""

    id: str
    name: str
    stage: str
    status: str
    commit: str
    dirty: str
    shards_digest: str
    shards_path: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The checkpoint that a model's weights came from; ``state`` is what is found of it now:
    ``whole``, ``damaged``, ``gone`` or, where none was noted, ``unknown``."""

    path: str
    step: str
    sha256: str
    state: str


@dataclass(frozen=True, kw_only=True)
class Video:
    """A source, and the shards that hold clips of it."""

    source: SourceEntry
    shards: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A folder of shards as its manifest tells it; ``path`` is where it was."""

    digest: str
    path: str
    shards: tuple[ShardEntry, ...]
    videos: tuple[Video, ...]


@dataclass(frozen=True, kw_only=True)
class ModelLineage:
    """Where a model came from. ``data`` is None where no run has kept the manifest."""

    model: ModelVersion
    weights: str
    run: Run
    checkpoint: Checkpoint
    data: DataSet | None


@dataclass(frozen=True, kw_only=True)
class Use:
    """What came of a data set: registered models, and trainings that are not registered."""

    data: DataSet
    models: tuple[ModelVersion, ...]
    unregistered: tuple[Run, ...]


class Lineage:
    """Answers from one store, which is read once.

    Args:
        uri: MLflow store.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._versions = list_models(uri)

    def of_model(self, name: str) -> ModelLineage:
        """Where a model came from.

        Args:
            name: as in ``registry.show``, or a model file.

        Raises:
            NotFoundError: no such version, or the file's run has registered none.
        """
        model = (
            self._by_file(Path(name)) if name.endswith(".safetensors") else show(name, self._uri)
        )
        run = next((r for r in self._runs if r.id == model.run_id), None)
        if run is None:
            raise NotFoundError(
                f"the run {model.run_id} of {model.uri} is no longer in {self._uri}"
            )
        return ModelLineage(
            model=model,
            weights=model.tags.get(WEIGHTS_TAG, "unknown"),
            run=run,
            checkpoint=_checkpoint(model.tags),
            data=self._data_set(model.shards_digest),
        )

    def of_video(self, sha256: str) -> list[tuple[Video, Use]]:
        """The data sets that hold a video, found by the hash of its contents, and what came of
        each."""
        uses = (
            self.of_shards(digest) for digest in sorted({run.shards_digest for run in self._runs})
        )
        return [
            (v, use) for use in uses if use for v in use.data.videos if v.source.sha256 == sha256
        ]

    def of_shards(self, digest: str) -> Use | None:
        """What came of a data set; None where no run of the store knows it."""
        data = self._data_set(digest)
        if data is None:
            return None
        models = tuple(v for v in self._versions if v.shards_digest == digest)
        registered = {model.run_id for model in models}
        trained = (r for r in self._runs if r.shards_digest == digest and r.stage == "train")
        return Use(
            data=data,
            models=models,
            unregistered=tuple(r for r in trained if r.id not in registered),
        )

    @cached_property
    def _runs(self) -> list[Run]:
        import mlflow

        with mlflow_errors():
            found = mlflow.search_runs(
                experiment_names=[EXPERIMENT],
                filter_string=f"tags.`{DIGEST_TAG}` LIKE '%'",
                output_format="list",
            )
        return [_run(run) for run in found]

    def _data_set(self, digest: str) -> DataSet | None:
        """From whichever run has kept it."""
        for run in self._runs:
            if run.shards_digest == digest and (data := _kept(run)) is not None:
                return data
        return None

    def _by_file(self, path: Path) -> ModelVersion:
        metadata, sha256 = artifact.read_metadata(path), file_sha256(path)
        for version in self._versions:
            if version.tags.get(WEIGHTS_TAG) == sha256:
                return version
        raise NotFoundError(
            f"{path} is no registered model of {self._uri}; it says of itself: run "
            f"{metadata.get('run_id', 'unknown')}, data set "
            f"{metadata.get('shards_digest', 'unknown')}"
        )


def _run(run: Any) -> Run:
    tags = run.data.tags
    return Run(
        id=run.info.run_id,
        name=run.info.run_name,
        stage=tags.get("stage", "train"),
        status=run.info.status,
        commit=tags.get("git.commit", "unknown"),
        dirty=tags.get("git.dirty", "unknown"),
        shards_digest=tags[DIGEST_TAG],
        shards_path=tags.get("shards.path", "unknown"),
    )


def _kept(run: Run) -> DataSet | None:
    """The data set of a run by its artefacts, or None if they are missing, damaged, or of another."""
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        try:
            with mlflow_errors():
                paths = [
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=f"runs:/{run.id}/{name}", dst_path=folder
                    )
                    for name in (MANIFEST, SHARD_MAP)
                ]
            manifest, holds = load_manifest(paths[0]), json.loads(Path(paths[1]).read_text())
        except (OSError, CorrFractalError, ValueError):
            return None
    if not manifest.digest == holds["digest"] == run.shards_digest:
        return None
    shards_of: dict[str, list[str]] = {}
    for shard, sources in holds["shards"].items():
        for sha256 in sources:
            shards_of.setdefault(sha256, []).append(shard)
    videos = (Video(source=s, shards=tuple(shards_of.get(s.sha256, ()))) for s in manifest.sources)
    return DataSet(
        digest=manifest.digest, path=run.shards_path, shards=manifest.shards, videos=tuple(videos)
    )


def _checkpoint(tags: Any) -> Checkpoint:
    path, sha256 = tags.get(CHECKPOINT_TAG, ""), tags.get("checkpoint.sha256", "")
    state = "unknown"
    if path:
        file = Path(path)
        state = (
            "gone" if not file.is_file() else "whole" if file_sha256(file) == sha256 else "damaged"
        )
    return Checkpoint(path=path, step=tags.get("checkpoint.step", ""), sha256=sha256, state=state)
