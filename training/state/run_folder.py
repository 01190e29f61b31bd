"""The folder of a run, as a worker uses it: a local one directly, one at a URI through a local
copy.

A worker writes local files. If the run's folder is at a URI, rank 0 holds its lease, and a thread
copies what changes. A checkpoint is published in this order: the state, the metrics up to it, and
last its companion with the SHA-256, with which it counts. The result is published after the model.
So a run that is killed between any two objects resumes from the checkpoint before.
"""

from __future__ import annotations

import fcntl
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from corrfractal.common.errors import CorrFractalError, IntegrityError
from corrfractal.files import storage
from corrfractal.files.lease import Lease
from corrfractal.files.mirror import FINAL_PATIENCE, Mirror, private_folder
from training.state.attempts import ATTEMPTS
from training.state.checkpoint import (
    Checkpoint,
    checkpoint_name,
    latest_checkpoint,
    read_checkpoint,
)
from training.state.messages import MESSAGES, messages_name
from training.state.stop import stop_requested

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
MODEL = "model.safetensors"
RESULT = "result.json"
DIVERGED = "diverged"
PICTURES = "pictures"

LOCK_TIMEOUT = 60.0  # seconds
LAST_PATIENCE = 5.0  # seconds
COMPANION = re.compile(r"step-(\d{8,})\.json")


class RunFolder:
    """The folder of a run on a local or shared disk.

    Attributes:
        local: where this worker writes.
        messages: the file of its messages there.
        keep_local: number of checkpoints to keep there; None: as many as in the run's folder.
    """

    keep_local: int | None = None

    def __init__(self, out: Path) -> None:
        self.local = out
        self.messages = out / MESSAGES

    @property
    def checkpoints(self) -> Path:
        """The local folder of the checkpoints."""
        return self.local / CHECKPOINTS

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None."""
        return latest_checkpoint(self.checkpoints)

    def checkpoint(self, step: int) -> Checkpoint:
        """The checkpoint of a step.

        Raises:
            IntegrityError: it is missing or damaged.
        """
        return read_checkpoint(self.checkpoints / checkpoint_name(step))

    def stop_requested(self) -> bool:
        """Whether the driver requests the workers to stop.

        Raises:
            LeaseLostError: another training took over.
        """
        return stop_requested(self.local)

    def publish_checkpoint(self, path: Path, keep: int, hurry: threading.Event) -> None:
        """Copy a checkpoint to where it counts, and delete older ones there.

        Args:
            path: its local file.
            keep: number of newest ones to keep.
            hurry: when it is set, a store that does not answer is not asked again.

        Raises:
            OSError: the store did not take it.
        """

    def publish_diverged(self) -> None:
        """Copy what explains why the loss is not finite."""

    def publish_result(self) -> None:
        """Copy all that is left, then the model, then the result.

        Raises:
            OSError: the store did not take it within ten minutes.
        """


@contextmanager
def open_run_folder(out: str, rank: int, group: str | None) -> Iterator[RunFolder]:
    """The folder of a run, locked by rank 0 until the block ends.

    Args:
        out: the folder, local or a URI.
        rank: of this worker.
        group: of the driver, see ``corrfractal.files.lease``.

    Raises:
        CorrFractalError: another training writes there.
    """
    with ExitStack() as stack:
        if not storage.is_uri(out):
            if rank == 0:
                stack.enter_context(_local_lock(Path(out)))
            yield RunFolder(Path(out))
            return
        lease = stack.enter_context(Lease(out, "training", group)) if rank == 0 else None
        local = stack.enter_context(private_folder())
        folder = _RemoteFolder(out, local, rank, lease)
        stack.enter_context(folder.mirror)
        try:
            yield folder
        finally:
            # The last messages; after a stop also metrics since the last checkpoint.
            with suppress(OSError, CorrFractalError):
                folder.mirror.publish_changed(patience=LAST_PATIENCE)


class _RemoteFolder(RunFolder):
    """A run's folder at a URI. Without a lease (ranks above 0) it publishes messages only."""

    keep_local = 1

    def __init__(self, out: str, local: Path, rank: int, lease: Lease | None) -> None:
        super().__init__(local)
        self.messages = local / messages_name(rank)
        self._out = out
        self._lease = lease
        self._stop = False
        patterns = [self.messages.name]
        if lease is not None:
            patterns += [METRICS, f"{PICTURES}/*.png"]
        self.mirror = Mirror(
            local,
            out,
            patterns,
            check=lease.check if lease is not None else lambda: None,
            tick=self._look if lease is not None else lambda: None,
        )
        # Files of earlier starts are continued.
        self.mirror.fetch(patterns[0])
        if lease is not None:
            self.mirror.fetch(METRICS)
            self.mirror.fetch(ATTEMPTS)

    def latest_checkpoint(self) -> Checkpoint | None:
        for step in reversed(steps_at(self._out)):
            try:
                return self.checkpoint(step)
            except IntegrityError:
                continue
        return None

    def checkpoint(self, step: int) -> Checkpoint:
        path = self.checkpoints / checkpoint_name(step)
        for file in (path, path.with_suffix(".json")):
            self.mirror.fetch(f"{CHECKPOINTS}/{file.name}")
        try:
            return read_checkpoint(path)
        except IntegrityError:
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            raise

    def stop_requested(self) -> bool:
        if self._lease is not None:
            self._lease.refuse_lost()
        return self._stop

    def publish_checkpoint(self, path: Path, keep: int, hurry: threading.Event) -> None:
        state = f"{CHECKPOINTS}/{path.name}"
        companion = f"{CHECKPOINTS}/{path.with_suffix('.json').name}"
        self.mirror.publish([state], hurry=hurry)
        # Before the checkpoint counts: a run that resumes from it continues after their last line.
        self.mirror.publish([METRICS], hurry=hurry)
        self.mirror.publish([companion], hurry=hurry)
        self._delete_old(keep)

    def publish_diverged(self) -> None:
        folder = self.local / DIVERGED
        names = sorted(f"{DIVERGED}/{path.name}" for path in folder.glob("step-*"))
        self.mirror.publish_changed()
        self.mirror.publish([*names, f"{DIVERGED}/step.json"])

    def publish_result(self) -> None:
        self.mirror.publish_changed(patience=FINAL_PATIENCE)
        self.mirror.publish([MODEL, RESULT], patience=FINAL_PATIENCE)

    def _delete_old(self, keep: int) -> None:
        folder = storage.join(self._out, CHECKPOINTS)
        with suppress(OSError):  # the next checkpoint tries again
            for step in steps_at(self._out)[:-keep]:
                # The state first: without its companion it would never be deleted.
                path = Path(checkpoint_name(step))
                storage.remove(storage.join(folder, path.name))
                storage.remove(storage.join(folder, path.with_suffix(".json").name))

    def _look(self) -> None:
        self._stop = stop_requested(self._out)


def steps_at(out: str) -> list[int]:
    """Steps of the checkpoints in a run's folder that have their companions, in order."""
    folder = storage.join(out, CHECKPOINTS)
    try:
        names = set(storage.listing(folder)[0])
    except FileNotFoundError:
        return []
    found = (COMPANION.fullmatch(name) for name in names)
    steps = (int(match[1]) for match in found if match is not None)
    return sorted(step for step in steps if checkpoint_name(step) in names)


@contextmanager
def _local_lock(out: Path) -> Iterator[None]:
    """Hold the lock of a local folder.

    Raises:
        CorrFractalError: another process holds it for longer than the timeout.
    """
    # The workers of a killed driver live a few seconds longer than it, so wait before giving up.
    deadline = time.monotonic() + LOCK_TIMEOUT
    with (out / ".lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    raise CorrFractalError(
                        f"another training is writing to {out}: stop it, or use another --out"
                    ) from exc
                time.sleep(0.5)
        yield
