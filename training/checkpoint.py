"""Checkpoints: whole or absent, checked before use, the newest few kept.

``step-00000200.pt`` is written beside its name, reaches the disk, and is renamed; then ``step-00000200.json`` with
its SHA-256 makes it valid. A file without such a companion, or one that does not match, is passed over for the one
before. Reading uses ``weights_only``: a checkpoint cannot run code.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from corrfractal.runtime import file_sha256, publish, write_text


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on. Randomness is counter-based, so there is no generator state to keep.

    Attributes:
        step: steps done.
        model, optimizer: their state dictionaries.
        shards_digest: identity of the data.
        config_digest: identity of the configuration.
        run_id: of the tracking server's run.
    """

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    shards_digest: str
    config_digest: str
    run_id: str


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint in one atomic step and remove all but the ``keep`` newest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{checkpoint.step:08d}.pt"
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    torch.save(vars(checkpoint), temporary)
    sha256 = file_sha256(temporary)
    publish(temporary, path)
    write_text(path.with_suffix(".json"), json.dumps({"step": checkpoint.step, "sha256": sha256}))
    for old in sorted(folder.glob("step-*.pt"))[:-keep]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink()
    for stray in folder.glob(".*.tmp"):
        stray.unlink()
    return path


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None. Damaged ones are passed over, not removed."""
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        try:
            if json.loads(path.with_suffix(".json").read_text())["sha256"] == file_sha256(path):
                return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
        except Exception:  # whatever is wrong with it, the one before may be whole
            continue
    return None
