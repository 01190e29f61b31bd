"""Checkpoints: whole or absent, checked before use, the newest few kept.

``step-00000200.pt`` is written to a temporary file and reaches the disk; then
``step-00000200.json`` with its SHA-256 is written, and the file renamed. A checkpoint without such
a note, or one that does not match, is skipped in favour of the one before, and is never deleted.
Reading uses ``weights_only``: a checkpoint cannot run code.

The loop stops only for the copy of the state: ``CheckpointWriter`` writes it in a thread, one at a
time.
"""

from __future__ import annotations

import copy
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from corrfractal.common.console import say
from corrfractal.common.errors import IntegrityError
from corrfractal.common.files import file_sha256, publish, write_text

CHECKPOINT = re.compile(r"step-\d{8,}\.pt")
HALF_WRITTEN = re.compile(r"\.step-\d{8,}\.(pt|json)\.\d+\.tmp")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on. Randomness is counter-based, so there is no generator state to
    keep.

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

    def snapshot(self) -> Checkpoint:
        """A copy in main memory, which later steps do not change."""
        with torch.no_grad():
            return Checkpoint(**{name: _copied(value) for name, value in vars(self).items()})


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint in one atomic step and remove all but the ``keep`` newest.

    Raises:
        OSError: it could not be written, for want of room for example. The older ones are
        untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stray in folder.iterdir():  # of a process that was killed: only one writes at a time
        if HALF_WRITTEN.fullmatch(stray.name):
            stray.unlink()
    path = folder / checkpoint_name(checkpoint.step)
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        torch.save(vars(checkpoint), temporary)
        sha256 = file_sha256(temporary)
        # The note first: no checkpoint is ever there without its hash, which allows to delete it.
        write_text(
            path.with_suffix(".json"), json.dumps({"step": checkpoint.step, "sha256": sha256})
        )
        publish(temporary, path)
    except RuntimeError as exc:  # what PyTorch's writer makes of a full disk
        temporary.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {str(exc).splitlines()[0]}") from exc
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    for old in _checkpoints(folder)[:-keep]:
        if _is_whole(old):
            old.unlink()
            old.with_suffix(".json").unlink()
    return path


def _checkpoints(folder: Path) -> list[Path]:
    """Files of our names, oldest first; a copy that the user made under another name is none."""
    return sorted(path for path in folder.glob("step-*.pt") if CHECKPOINT.fullmatch(path.name))


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint holds what the note beside it says."""
    try:
        note = json.loads(path.with_suffix(".json").read_text())
        return bool(note["sha256"] == file_sha256(path))
    except (OSError, ValueError, TypeError, KeyError):
        return False


def checkpoint_name(step: int) -> str:
    """Name of a checkpoint's file."""
    return f"step-{step:08d}.pt"


class CheckpointWriter:
    """Writes checkpoints of one folder in the background, at most one at a time.

    A checkpoint that cannot be written is logged and skipped: training continues, and the
    next is tried when it is due.
    """

    def __init__(self, folder: Path, keep: int, tell: Callable[[str], None] = say) -> None:
        self._folder, self._keep, self._tell = folder, keep, tell
        self._thread: threading.Thread | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.join()

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy the state, begin to write it; waits only while the one before is still being
        written."""
        snapshot = checkpoint.snapshot()
        self.join()
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint")
        self._thread.start()

    def join(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            save_checkpoint(self._folder, checkpoint, self._keep)
        except OSError as exc:
            self._tell(
                f"warning: no checkpoint of step {checkpoint.step} in {self._folder} "
                f"({exc.strerror or exc}); training continues and tries again at the next one"
            )


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None. Damaged ones are passed over, not removed."""
    for path in reversed(_checkpoints(folder)):
        try:
            return read_checkpoint(path)
        except IntegrityError:  # whatever is wrong with it, the one before may be whole
            continue
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        IntegrityError: it is missing, or not whole.
    """
    try:
        if json.loads(path.with_suffix(".json").read_text())["sha256"] == file_sha256(path):
            return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as exc:
        raise IntegrityError(f"the checkpoint {path} cannot be read: {exc}") from exc
    raise IntegrityError(f"the checkpoint {path} is damaged, its SHA-256 is another")


def _copied(value: Any) -> Any:
    """Plain values and tensors in dictionaries and lists, tensors copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return copy.copy(value)
