"""What the driver shows of a run, read from the files that its workers write: they may be on other
machines."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corrfractal.common.console import progress, say
from training.job import Job, messages_file


def note_previous(out: Path) -> None:
    """Print which checkpoint the run resumes from, if there is one."""
    found = sorted((out / "checkpoints").glob("step-*.pt"))
    if found:
        say(f"resuming from {found[-1].relative_to(out)}")


@contextmanager
def shown_progress(job: Job) -> Iterator[None]:
    """Show the steps done, read from the file that rank 0 appends to."""
    stop = threading.Event()

    def follow() -> None:
        shown, path = 0, Path(job.out) / "metrics.jsonl"
        with (
            progress("training", job.total) as advance,
            messages_file(Path(job.out)).open("a+") as messages,
        ):
            stopped = False
            while not stopped:
                stopped = stop.wait(1.0)
                lines = path.read_text().splitlines() if path.exists() else []
                done = json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else shown
                if done > shown:
                    advance(done - shown)
                    shown = done
                for message in messages.read().splitlines():
                    say(message)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
