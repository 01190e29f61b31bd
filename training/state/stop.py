"""Leaving when asked: SIGTERM to a worker, or a word of the driver, ends the run at the next step,
with a checkpoint.

The driver says it with a file, since its workers may be on other machines; a worker learns it from
the signal. All workers must leave at the same step: ``training.loop`` adds up their votes in the
sum that it makes of each step anyway.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path

_SIGNALLED = threading.Event()


def listen() -> None:
    """Take note of SIGTERM from now on. In the main thread of a process only; elsewhere nothing is
    changed."""
    _SIGNALLED.clear()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda signum, frame: _SIGNALLED.set())


def signalled() -> bool:
    """Whether this process has been sent SIGTERM."""
    return _SIGNALLED.is_set()


def stop_file(out: Path) -> Path:
    """There while the driver wants its workers to leave."""
    return out / ".stop"
