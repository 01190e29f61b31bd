"""Bounds on processor time and memory while one segment is read.

Decoders are third-party C++ that reads files from anywhere, and nothing within a process can stop
one that does not return. A watchdog records the reason and calls ``os._exit``; the pipeline then
quarantines the segment and builds the shard without it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from corrfractal.runtime.process import resident_mb

EXIT_CODE = 70
# Seconds between two checks; an allocation may exceed the limit by what it fills in between.
PERIOD = 0.05


@contextmanager
def limited(cpu_seconds: float, memory_mb: float, report: Callable[[str], None]) -> Iterator[None]:
    """End this process at once if the block exceeds a limit.

    Args:
        cpu_seconds: processor time of the process. Waiting for a disk or a network takes none, so a
            slow store cannot exceed it.
        memory_mb: growth of its resident memory, MB.
        report: called with the reason before the process ends.
    """
    cpu_before = time.process_time()
    memory_before = resident_mb()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(PERIOD):
            if time.process_time() - cpu_before > cpu_seconds:
                excess = f"{cpu_seconds:g} s of processor time (max_cpu_seconds)"
            elif resident_mb() - memory_before > memory_mb:
                excess = f"{memory_mb:g} MB of memory (max_memory_mb)"
            else:
                continue
            report(f"reading it took more than {excess}")
            os._exit(EXIT_CODE)

    watcher = threading.Thread(target=watch, name="limits", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
