"""The job that the driver hands to its workers, stored as ``job.json`` in the run's folder."""

from __future__ import annotations

from dataclasses import dataclass

from corrfractal.common.config import Config

from .config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class TrainingJob(Config):
    """A training configuration, its data, and where the results are written."""

    shards: str
    """Folder of the shards, local or a URI."""
    shards_digest: str
    """Digest of their manifest."""
    out: str
    """Folder of the run."""
    config: TrainingConfig
    """How to train."""
    total: int
    """Length of the run in steps."""
    order: int = 1
    """Version of the order of samples, see ``training.data.order.order_version``."""
    tracking_uri: str
    """MLflow store; empty: nothing is sent to MLflow."""
    run_id: str
    """MLflow run; empty: ``training.local`` began the run, and MLflow does not know it."""
