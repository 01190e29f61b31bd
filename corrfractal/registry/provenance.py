"""What every MLflow run records of its origin: the data set, the code and the installed packages.

Lineage answers from these records when the shards themselves are gone.
"""

from __future__ import annotations

import json
import platform
import subprocess
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from corrfractal.common import storage
from corrfractal.common.process import ROOT
from corrfractal.shards.manifest import MANIFEST, load_manifest, load_sidecar

SHARD_MAP = "shards.json"
DIGEST_TAG = "shards.digest"
TRACKED_PACKAGES = ("torch", "numpy", "faiss-cpu", "decord2", "ray", "mlflow")
"""Packages whose versions are tags of a run."""


def data_set(shards: str | Path, shards_digest: str) -> Any:
    """A folder of shards as an MLflow data set."""
    import mlflow

    with warnings.catch_warnings():
        # MLflow registers two equal readings of a local path and says so each time.
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
        try:
            source = mlflow.data.dataset_source_registry.resolve_dataset_source(str(shards))
        # A kind of storage that MLflow does not know, such as az://
        except mlflow.exceptions.MlflowException:
            source = mlflow.data.code_dataset_source.CodeDatasetSource({"uri": str(shards)})
    # The store holds 36 characters of a digest; the whole one is a tag of the run and of the model
    # version.
    name = Path(str(shards)).name or "shards"
    return mlflow.data.meta_dataset.MetaDataset(source, name=name, digest=shards_digest[:36])


def describe_run(shards: str | Path, shards_digest: str, stage: str) -> None:
    """Tell the active run what it works on, and with what code: tags, data set, installed packages,
    and what lineage needs when the shards themselves are gone.

    Args:
        shards: folder with ``manifest.json``.
        shards_digest: of the manifest.
        stage: ``precompute`` or ``train``.
    """
    import mlflow

    mlflow.set_tags(
        {DIGEST_TAG: shards_digest, "shards.path": str(shards), "stage": stage, **code_state()}
    )
    mlflow.log_input(data_set(shards, shards_digest), context=stage)
    mlflow.log_text(_environment(), "environment.txt")
    _log_shards(shards)


def code_state() -> dict[str, str]:
    """What code runs, as tags: the commit, whether files differ from it, and the versions that
    decide numbers.

    Without git, or outside a checkout of this project (an image, an installed wheel), the commit is
    ``unknown``.
    """
    found = {"git.commit": "unknown", "git.dirty": "unknown"}
    # Not the repository of something around us
    if _git("rev-parse", "--show-toplevel") == str(ROOT):
        commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
        if commit is not None and status is not None:
            found = {"git.commit": commit, "git.dirty": str(bool(status)).lower()}
    installed = {p.metadata["Name"]: p.version for p in metadata.distributions()}
    versions = {
        name: installed[name] for name in ("corrfractal", *TRACKED_PACKAGES) if name in installed
    }
    return {
        **found,
        **{f"version.{k}": v for k, v in {"python": platform.python_version(), **versions}.items()},
    }


def _environment() -> str:
    """All installed packages, one ``name==version`` a line."""
    return "".join(
        sorted({f"{p.metadata['Name']}=={p.version}\n" for p in metadata.distributions()})
    )


def _log_shards(shards: str | Path) -> None:
    """The manifest, and ``shards.json``: name of a shard -> SHA-256 of the videos in it."""
    import mlflow

    manifest = load_manifest(shards)
    holds = {
        shard.name: sorted(
            {source.sha256 for source in load_sidecar(shards, shard).sources if source.clips}
        )
        for shard in manifest.shards
    }
    mlflow.log_text(storage.read(storage.join(shards, MANIFEST)).decode(), MANIFEST)
    mlflow.log_text(json.dumps({"digest": manifest.digest, "shards": holds}, indent=1), SHARD_MAP)


def _git(*arguments: str) -> str | None:
    """What git answers, or None where it cannot."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
