"""What the driver shows of a run. It reads the files of the run's folder: the workers may be on
other hosts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from corrfractal.common.console import progress
from corrfractal.common.logs import show_forwarded
from corrfractal.files import storage
from training.job import TrainingJob

from .messages import OF_ANY_RANK
from .metrics_file import MetricLine
from .run_folder import CHECKPOINTS, METRICS, steps_at

POLL_SECONDS = 1.0
REMOTE_POLL_SECONDS = 3.0

log = logging.getLogger(__name__)


def note_previous(out: str) -> None:
    """Print which checkpoint the run resumes from, if there is one."""
    steps = steps_at(out)
    if steps:
        log.info("resuming from %s/step-%08d.pt", CHECKPOINTS, steps[-1])


@contextmanager
def show_progress(job: TrainingJob, *, messages: bool = True) -> Iterator[None]:
    """Show the steps done, until the block ends.

    Args:
        job: of the run.
        messages: show the messages of the workers too, which are other processes.
    """
    stop = threading.Event()
    tails = _Tails(job.out)
    with suppress(OSError):
        tails.skip()  # messages of earlier starts

    def follow() -> None:
        shown = 0
        seconds = REMOTE_POLL_SECONDS if storage.is_uri(job.out) else POLL_SECONDS
        with progress("training", job.total) as advance:
            stopped = False
            while not stopped:
                # After the end the files are read once more.
                stopped = stop.wait(seconds)
                try:
                    steps, written = tails.read()
                except OSError:
                    continue  # the store does not answer now
                # After a restart of the workers the step may be an earlier one: the bar waits.
                if steps and steps[-1].step > shown:
                    advance(steps[-1].step - shown)
                    shown = steps[-1].step
                if messages:
                    for message in written:
                        show_forwarded(message)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class _Tails:
    """What workers append to the files of a run's folder. A file is read only if it changed, and of
    the messages only what is new."""

    def __init__(self, out: str) -> None:
        self._out = out
        self._stamps: dict[str, str] = {}
        self._offsets: dict[str, int] = {}

    def skip(self) -> None:
        """Count the messages so far as read."""
        for name, (size, _) in self._changed().items():
            if OF_ANY_RANK.fullmatch(name):
                self._offsets[name] = size

    def read(self) -> tuple[list[MetricLine], list[str]]:
        """The last line of the metrics, if it is new, and the messages since the last call."""
        lines = []
        messages = []
        for name, (size, stamp) in self._changed().items():
            if name == METRICS:
                lines = _complete(storage.read(storage.join(self._out, name)))[-1:]
            else:
                messages += self._new_messages(name, size)
            self._stamps[name] = stamp
        return [MetricLine.from_json(line) for line in lines], messages

    def _new_messages(self, name: str, size: int) -> list[str]:
        offset = self._offsets.get(name, 0)
        text = storage.read_part(storage.join(self._out, name), offset, max(0, size - offset))
        lines = _complete(text)
        self._offsets[name] = offset + sum(map(len, lines))
        return [line.decode("utf-8", "replace") for line in lines]

    def _changed(self) -> dict[str, tuple[int, str]]:
        facts = storage.file_facts(self._out)
        return {
            name: fact
            for name, fact in sorted(facts.items())
            if (name == METRICS or OF_ANY_RANK.fullmatch(name))
            and fact[0] > 0
            and self._stamps.get(name) != fact[1]
        }


def _complete(contents: bytes) -> list[bytes]:
    """The complete lines: the last one may still be written."""
    return [line for line in contents.splitlines(keepends=True) if line.endswith(b"\n")]
