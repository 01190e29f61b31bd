"""What the reading of one segment may take: decoders are other people's C++, fed with files from
anywhere.

Nothing within a process stops a decoder that does not return, so a watchdog thread records the
reason and ends the process. The pipeline then puts the segment into quarantine and makes the shard again
without it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from corrfractal.common.process import resident_mb

EXIT_CODE = 70
PERIOD = 0.05  # seconds between two looks; an allocation may overshoot by what it fills meanwhile


@contextmanager
def limited(
    cpu_seconds: float, memory_mb: float, leave_word: Callable[[str], None]
) -> Iterator[None]:
    """End this process, at once, if the block takes more than it may.

    Args:
        cpu_seconds: processor time of the process; what waits for a disk or a network takes none.
        memory_mb: by how much its resident memory may grow.
        leave_word: is handed the reason before the end.
    """
    started, began, done = time.process_time(), resident_mb(), threading.Event()

    def watch() -> None:
        while not done.wait(PERIOD):
            reason = ""
            if time.process_time() - started > cpu_seconds:
                reason = f"reading it took more than {cpu_seconds:g} s of processor time (max_cpu_seconds)"
            elif resident_mb() - began > memory_mb:
                reason = f"reading it took more than {memory_mb:g} MB of memory (max_memory_mb)"
            if reason:
                leave_word(reason)
                os._exit(EXIT_CODE)

    watcher = threading.Thread(target=watch, name="limits", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
