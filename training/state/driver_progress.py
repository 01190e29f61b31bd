"""What the driver shows of a run. It reads the files of the run's folder: the workers may be on
other hosts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corrfractal.common.console import progress
from corrfractal.common.logs import show_forwarded
from training.job import TrainingJob

from .messages import messages_file
from .metrics_file import last_line

POLL_SECONDS = 1.0

log = logging.getLogger(__name__)


def note_previous(out: Path) -> None:
    """Print which checkpoint the run resumes from, if there is one."""
    found = sorted((out / "checkpoints").glob("step-*.pt"))
    if found:
        log.info("resuming from %s", found[-1].relative_to(out))


@contextmanager
def show_progress(job: TrainingJob, *, messages: bool = True) -> Iterator[None]:
    """Show the steps done, until the block ends.

    Args:
        job: of the run.
        messages: show the messages of the workers too, which are other processes.
    """
    metrics = Path(job.out) / "metrics.jsonl"
    stop = threading.Event()

    def follow() -> None:
        shown = 0
        # "a+" creates the file if no worker has, and skips the messages of earlier starts.
        with (
            progress("training", job.total) as advance,
            messages_file(Path(job.out)).open("a+") as written,
        ):
            stopped = False
            while not stopped:
                # After the end the files are read once more.
                stopped = stop.wait(POLL_SECONDS)
                line = last_line(metrics)
                # After a restart of the workers the step may be an earlier one: the bar waits.
                if line is not None and line.step > shown:
                    advance(line.step - shown)
                    shown = line.step
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
