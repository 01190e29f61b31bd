"""Record the origin of an MLflow run: data set, code, installed packages; and read it for reports.

Lineage works from these records after the shards themselves are deleted.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
import warnings
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from corrfractal.files import storage
from corrfractal.runtime.process import ROOT

from .mlflow_errors import mlflow_errors
from .names import (
    COMMIT_TAG,
    DIGEST_TAG,
    DIRTY_TAG,
    LOGGED_FILES,
    SHARDS_PATH_TAG,
    STAGE_TAG,
    UNKNOWN,
)

TRACKED_PACKAGES = ("torch", "numpy", "faiss-cpu", "decord2", "ray", "mlflow")
"""Packages whose versions are tags of a run."""


def describe_run(shards: str | Path, shards_digest: str, stage: str) -> None:
    """Record data set, code and packages in MLflow's active run.

    Args:
        shards: folder with ``manifest.json``.
        shards_digest: digest of the manifest.
        stage: ``precompute`` or ``train``.
    """
    import mlflow

    tags = {DIGEST_TAG: shards_digest, SHARDS_PATH_TAG: str(shards), STAGE_TAG: stage}
    mlflow.set_tags({**tags, **code_state()})
    _log_data_set(shards, shards_digest, stage)
    packages = {f"{p.metadata['Name']}=={p.version}\n" for p in metadata.distributions()}
    mlflow.log_text("".join(sorted(packages)), "environment.txt")
    _log_shards(shards)


def code_state() -> dict[str, str]:
    """The running code as tags: commit, uncommitted changes, versions of packages.

    Without git, or outside a checkout of this project (an image, an installed wheel), the commit is
    ``unknown``.
    """
    state = {COMMIT_TAG: UNKNOWN, DIRTY_TAG: UNKNOWN}
    # site-packages may be inside another project's repository, whose commit says nothing.
    if _git("rev-parse", "--show-toplevel") == str(ROOT):
        commit = _git("rev-parse", "HEAD")
        status = _git("status", "--porcelain")
        if commit is not None and status is not None:
            state = {COMMIT_TAG: commit, DIRTY_TAG: str(bool(status)).lower()}

    state["version.python"] = platform.python_version()
    installed = {p.metadata["Name"]: p.version for p in metadata.distributions()}
    for name in ("corrfractal", *TRACKED_PACKAGES):
        if name in installed:
            state[f"version.{name}"] = installed[name]
    return state


def run_facts(run_id: str, registered: tuple[str, str] | None) -> dict[str, str]:
    """Name, time and tags of a run, and the aliases of its version, for people to read.

    Args:
        run_id: MLflow run.
        registered: (name, version) of a registered model.

    Raises:
        CorrFractalError: the store does not answer.
    """
    import mlflow

    with mlflow_errors(model=run_id):
        client = mlflow.MlflowClient()
        run = client.get_run(run_id)
        started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
        facts = {
            "MLflow run": f"{run.info.run_name} ({run_id})",
            "trained": started.strftime("%Y-%m-%d %H:%M UTC"),
        }
        if registered is not None:
            aliases = client.get_model_version(*registered).aliases
            facts["version"] = "/".join(registered) + "".join(f" @{alias}" for alias in aliases)

    # MLflow's own tags repeat user, source file and model history.
    for key, value in run.data.tags.items():
        if not key.startswith("mlflow."):
            facts[key] = value
    return facts


def download_copy(run_id: str, name: str, folder: str) -> None:
    """Download a file that ``describe_run`` logged, one of ``LOGGED_FILES``.

    Args:
        run_id: MLflow run.
        name: of the file; it gets the same name below the folder.
        folder: existing.

    Raises:
        CorrFractalError: the run has no such file, or the store does not answer.
    """
    import mlflow

    uri = f"runs:/{run_id}/{name}"
    with mlflow_errors(model=uri):
        mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=str((Path(folder) / name).parent)
        )


def _log_data_set(shards: str | Path, shards_digest: str, stage: str) -> None:
    """Record the data set as an input of the active run.

    MLflow looks for the data set's row and then inserts it: of two runs that record the same data
    set for the first time at once, one violates the row's constraint, and finds the row when it
    asks again.
    """
    import mlflow

    data_set = _data_set(shards, shards_digest)
    try:
        mlflow.log_input(data_set, context=stage)
    except mlflow.MlflowException as exc:
        said = str(exc).lower()  # SQLite, PostgreSQL: "unique constraint"; MySQL: "duplicate entry"
        if "unique" not in said and "duplicate" not in said:
            raise
        mlflow.log_input(data_set, context=stage)


def _data_set(shards: str | Path, shards_digest: str) -> Any:
    """A folder of shards as an MLflow data set."""
    import mlflow

    with warnings.catch_warnings():
        # MLflow finds two equal interpretations of a local path, and warns each time.
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
        try:
            source = mlflow.data.dataset_source_registry.resolve_dataset_source(str(shards))
        # A kind of storage that MLflow does not support, such as az://
        except mlflow.exceptions.MlflowException:
            source = mlflow.data.code_dataset_source.CodeDatasetSource({"uri": str(shards)})

    # MLflow stores at most 36 characters of a digest; the tag has all of them.
    name = Path(str(shards)).name or "shards"
    return mlflow.data.meta_dataset.MetaDataset(source, name=name, digest=shards_digest[:36])


def _log_shards(shards: str | Path) -> None:
    """Log the manifest and the index of shards and sources: lineage answers from these copies when
    the folder is gone."""
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        for name in LOGGED_FILES:
            copy = Path(folder) / name
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(storage.read(storage.join(shards, name)))
        mlflow.log_artifacts(folder)


def _git(*arguments: str) -> str | None:
    """The output of a git command; None if git is missing or fails."""
    try:
        result = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
