"""Lineage: registered model -> run -> checkpoint -> manifest -> shards -> videos, and back.

All answers come from the MLflow store: the tags of versions and runs, and each run's copies of
manifest and shard map (``provenance.describe_run``). The shards' folder is not needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from corrfractal.common.errors import CorrFractalError, NotFoundError
from corrfractal.files import storage
from corrfractal.files.atomic import file_sha256
from corrfractal.network import artifact
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import ShardEntry, SourceEntry, load_manifest

from .mlflow_errors import mlflow_errors
from .names import (
    CHECKPOINT_PATH_TAG,
    CHECKPOINT_SHA256_TAG,
    CHECKPOINT_STEP_TAG,
    COMMIT_TAG,
    DIGEST_TAG,
    DIRTY_TAG,
    LOGGED_FILES,
    PROJECT,
    SHARDS_PATH_TAG,
    STAGE_TAG,
    UNKNOWN,
)
from .provenance import download_copy
from .versions import ModelVersion, find_version, list_models


@dataclass(frozen=True, kw_only=True)
class RunRecord:
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
class CheckpointRecord:
    """The checkpoint that a model's weights came from, as tagged on the version.

    ``state`` is its present state: ``whole``, ``damaged``, ``gone``, or ``unknown`` if the version
    has no tag.
    """

    path: str
    step: str
    sha256: str
    state: str


@dataclass(frozen=True, kw_only=True)
class VideoUse:
    """A source video, and the shards that contain clips of it."""

    source: SourceEntry
    shards: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A folder of shards according to its manifest; ``path`` is its location at that time."""

    digest: str
    path: str
    shards: tuple[ShardEntry, ...]
    videos: tuple[VideoUse, ...]


@dataclass(frozen=True, kw_only=True)
class ModelLineage:
    """Origin of a model. ``data`` is None if no run has a copy of the manifest."""

    model: ModelVersion
    weights: str
    run: RunRecord
    checkpoint: CheckpointRecord
    data: DataSet | None


@dataclass(frozen=True, kw_only=True)
class DataSetUse:
    """What was trained on a data set: registered models, and runs without a registered model."""

    data: DataSet
    models: tuple[ModelVersion, ...]
    unregistered: tuple[RunRecord, ...]


class Lineage:
    """Lineage queries on one store. Versions and runs are read once.

    Args:
        uri: MLflow store.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._versions = list_models(uri)

    def of_model(self, name: str) -> ModelLineage:
        """The origin of a model.

        Args:
            name: as in ``versions.parse_model_name``, or a ``.safetensors`` file.

        Raises:
            NotFoundError: no such version, no version has the file's weights, or its run was
                deleted.
        """
        is_file = name.endswith(".safetensors")
        model = self._version_of_file(Path(name)) if is_file else find_version(name, self._uri)
        run = next((run for run in self._runs if run.id == model.run_id), None)
        if run is None:
            raise NotFoundError(
                f"the run {model.run_id} of {model.uri} is no longer in {self._uri}"
            )
        return ModelLineage(
            model=model,
            weights=model.weights_sha256,
            run=run,
            checkpoint=_checkpoint(model.tags),
            data=self._data_set(model.shards_digest),
        )

    def of_video(self, sha256: str) -> list[tuple[VideoUse, DataSetUse]]:
        """The data sets that contain a video, with what was trained on each.

        Args:
            sha256: of the video's contents, so a renamed file is found too.
        """
        found = []
        for digest in sorted({run.shards_digest for run in self._runs}):
            use = self.of_shards(digest, video=sha256)
            if use is not None:
                found += [(video, use) for video in use.data.videos]
        return found

    def of_shards(self, digest: str, video: str | None = None) -> DataSetUse | None:
        """What was trained on a data set; None if neither its folder nor a run has its index.

        Args:
            digest: of the data set.
            video: SHA-256 of the only video to list; None: all.
        """
        data = self._data_set(digest, video)
        if data is None:
            return None
        models = tuple(v for v in self._versions if v.shards_digest == digest)
        registered = {model.run_id for model in models}
        # Includes failed and running ones.
        trained = [r for r in self._runs if r.shards_digest == digest and r.stage == "train"]
        return DataSetUse(
            data=data,
            models=models,
            unregistered=tuple(run for run in trained if run.id not in registered),
        )

    @cached_property
    def _runs(self) -> list[RunRecord]:
        import mlflow

        with mlflow_errors():
            runs = mlflow.search_runs(
                experiment_names=[PROJECT],
                filter_string=f"tags.`{DIGEST_TAG}` LIKE '%'",
                output_format="list",
            )
        return [_run_record(run) for run in runs]

    def _data_set(self, digest: str, video: str | None = None) -> DataSet | None:
        """The data set by its folder, if that is still the same, or by the first intact copy that a
        run has of its index."""
        runs = [run for run in self._runs if run.shards_digest == digest]
        for run in runs:
            data = _read_data_set(run, run.shards_path, video)
            if data is not None:
                return data
        for run in runs:
            data = _download_data_set(run, video)
            if data is not None:
                return data
        return None

    def _version_of_file(self, path: Path) -> ModelVersion:
        metadata = artifact.read_metadata(path)
        sha256 = file_sha256(path)
        for version in self._versions:
            if version.weights_sha256 == sha256:
                return version
        raise NotFoundError(
            f"{path} is not a registered model of {self._uri}; its metadata names run "
            f"{metadata.get('run_id', UNKNOWN)}, data set "
            f"{metadata.get('shards_digest', UNKNOWN)}"
        )


def _run_record(run: Any) -> RunRecord:
    tags = run.data.tags
    return RunRecord(
        id=run.info.run_id,
        name=run.info.run_name,
        stage=tags.get(STAGE_TAG, "train"),
        status=run.info.status,
        commit=tags.get(COMMIT_TAG, UNKNOWN),
        dirty=tags.get(DIRTY_TAG, UNKNOWN),
        shards_digest=tags[DIGEST_TAG],
        shards_path=tags.get(SHARDS_PATH_TAG, UNKNOWN),
    )


def _download_data_set(run: RunRecord, video: str | None) -> DataSet | None:
    """The data set from a run's artefacts; None if they are missing, damaged or do not match."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in LOGGED_FILES:
                download_copy(run.id, name, folder)
        except (OSError, CorrFractalError):
            return None
        return _read_data_set(run, folder, video)


def _read_data_set(run: RunRecord, folder: str, video: str | None) -> DataSet | None:
    """The data set in a folder; None if it is another one, damaged or gone."""
    if folder == UNKNOWN:
        return None
    try:
        manifest = load_manifest(folder)
        if manifest.digest != run.shards_digest:
            return None
        index = Index(folder, manifest)
        videos = [
            VideoUse(source=source, shards=shards)
            for source, shards in index.sources_with_shards(sha256=video)
        ]
        shards = index.shards if video is None else ()
    except (OSError, CorrFractalError):
        return None
    return DataSet(
        digest=manifest.digest, path=run.shards_path, shards=shards, videos=tuple(videos)
    )


def _checkpoint(tags: Mapping[str, str]) -> CheckpointRecord:
    path = tags.get(CHECKPOINT_PATH_TAG, "")
    sha256 = tags.get(CHECKPOINT_SHA256_TAG, "")
    # The run's folder, with its checkpoints, may have been moved, cleaned up or overwritten.
    if not path:
        state = UNKNOWN
    else:
        try:
            state = "whole" if storage.sha256(path) == sha256 else "damaged"
        except (FileNotFoundError, NotADirectoryError):
            state = "gone"
        except OSError:
            state = UNKNOWN  # the store does not answer
    return CheckpointRecord(
        path=path, step=tags.get(CHECKPOINT_STEP_TAG, ""), sha256=sha256, state=state
    )
