"""What is trained, where: the job that the driver hands to its workers; and how they talk back."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from corrfractal.common.config import Config
from corrfractal.common.console import say

from .config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Job(Config):
    """What is trained, on which data, and where it is written."""

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
    tracking_uri: str
    """MLflow store."""
    run_id: str
    """MLflow run."""


def tell(out: Path, text: str) -> None:
    """Say something to the user from a worker, whose output Ray keeps to itself: the driver shows
    this file's lines."""
    with contextlib.suppress(OSError):  # on a full disk there may be no room to say so
        say(text)
        with messages_file(out).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def messages_file(out: Path) -> Path:
    """What the workers of a run had to say."""
    return out / "messages.log"
