"""Checkpoints: written atomically, verified before use, the newest few kept.

``step-00000200.pt`` is written to a temporary file and flushed to disk. Then
``step-00000200.json``, its companion with the SHA-256, is written, and the file is renamed. A
checkpoint without a matching companion is skipped in favour of the previous one, and never deleted.
Reading uses ``weights_only``: a checkpoint cannot run code.

The loop waits only while the state is copied: ``CheckpointWriter`` writes the copy in a thread, one
checkpoint at a time.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from corrfractal.common.errors import CorrFractalError, IntegrityError
from corrfractal.files.atomic import file_sha256, publish, write_text

CHECKPOINT = re.compile(r"step-\d{8,}\.pt")
TEMPORARY = re.compile(r"\.step-\d{8,}\.(pt|json)\.\d+\.tmp")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to resume. Randomness is counter-based, so there is no generator state.

    Attributes:
        step: steps done.
        model: state dictionary of the network.
        optimizer: state dictionary of the optimiser.
        shards_digest: identity of the data.
        config_digest: identity of the configuration.
        run_id: the MLflow run.
    """

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    shards_digest: str
    config_digest: str
    run_id: str

    def snapshot(self) -> Checkpoint:
        """A copy in main memory, which later steps do not change."""
        with torch.no_grad():
            return Checkpoint(**{name: _copied(value) for name, value in vars(self).items()})


def checkpoint_name(step: int) -> str:
    """Name of a checkpoint's file."""
    return f"step-{step:08d}.pt"


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint atomically, and delete all but the ``keep`` newest.

    Returns:
        The file.

    Raises:
        OSError: it could not be written, on a full disk for example. Older ones are unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Only one process writes here at a time, so these are left by killed ones.
    for stray in folder.iterdir():
        if TEMPORARY.fullmatch(stray.name):
            stray.unlink()

    path = folder / checkpoint_name(checkpoint.step)
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        torch.save(vars(checkpoint), temporary)
        companion = {"step": checkpoint.step, "sha256": file_sha256(temporary)}
        # The companion first: a file that has its final name always has a hash, which is the
        # condition for deleting it later.
        write_text(path.with_suffix(".json"), json.dumps(companion))
        publish(temporary, path)
    except RuntimeError as exc:
        # PyTorch's writer reports a full disk as a RuntimeError.
        temporary.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {str(exc).splitlines()[0]}") from exc
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

    for old in _checkpoints(folder)[:-keep]:
        if _is_intact(old):
            old.unlink()
            old.with_suffix(".json").unlink()
    return path


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint, or None. Damaged ones are skipped, not deleted."""
    for path in reversed(_checkpoints(folder)):
        try:
            return read_checkpoint(path)
        except IntegrityError:
            continue
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint into main memory.

    Raises:
        IntegrityError: it is missing, damaged, or not a checkpoint.
    """
    try:
        if _stored_sha256(path) == file_sha256(path):
            return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as exc:
        raise IntegrityError(f"the checkpoint {path} cannot be read: {exc}") from exc
    raise IntegrityError(f"the checkpoint {path} is damaged: its SHA-256 is not the stored one")


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, oldest first. Copies that the user made under other names are not among
    them."""
    return sorted(path for path in folder.glob("step-*.pt") if CHECKPOINT.fullmatch(path.name))


def _is_intact(path: Path) -> bool:
    """Whether a checkpoint matches its companion."""
    try:
        return _stored_sha256(path) == file_sha256(path)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _stored_sha256(path: Path) -> str:
    """The SHA-256 in a checkpoint's companion."""
    return str(json.loads(path.with_suffix(".json").read_text())["sha256"])


class CheckpointWriter:
    """Writes the checkpoints of a folder in the background, at most one at a time.

    A checkpoint that cannot be written is logged and skipped: training continues, and the next
    one is tried when it is due.

    Args:
        folder: of the checkpoints.
        keep: number of newest ones to keep.
        publish: called in the background with each file written, and with an event that is set
            when the next checkpoint waits: it should then give up what has failed once.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        publish: Callable[[Path, threading.Event], None] = lambda path, hurry: None,
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._publish = publish
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.join()

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy the state and start to write it. Waits while the previous one is being written."""
        snapshot = checkpoint.snapshot()
        self._hurry.set()
        self.join()
        self._hurry.clear()
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint")
        self._thread.start()

    def join(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            path = save_checkpoint(self._folder, checkpoint, self._keep)
            self._publish(path, self._hurry)
        except CorrFractalError as exc:
            # The lease of the run's folder was lost, and the loop stops at its next step.
            log.debug("no checkpoint of step %d: %s", checkpoint.step, exc)
        except OSError as exc:
            log.warning(
                f"no checkpoint of step {checkpoint.step} in {self._folder} "
                f"({exc.strerror or exc}); training continues and tries again at the next one"
            )


def _copied(value: Any) -> Any:
    """A copy of nested dictionaries and lists, with tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return copy.copy(value)
