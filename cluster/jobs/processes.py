"""Find and end the processes of a POSIX session, from ``/proc`` (Linux only).

Children inherit the session (``setsid``) of their parent, so its members are found without keeping
a list of process ids. A child that opens another session, as the driver of a Ray job does, is found
as a descendant.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Process:
    """A live process."""

    pid: int
    parent: int
    session: int
    born: str
    """Boot id and start time. Distinguishes the process from a later one with the same id."""


def table() -> dict[int, Process]:
    """All live processes by id.

    Zombies count as dead: process 1 of a container may reap them late or never.
    """
    boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    found = {}
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        # OSError: the process ended while the table was read.
        with contextlib.suppress(OSError):
            # proc(5): "pid (name) state ppid pgrp session ... starttime(22nd)". The name may
            # contain spaces and brackets, so split after the last bracket.
            state, *fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if state in "ZX":
                continue
            pid = int(folder.name)
            found[pid] = Process(
                pid=pid,
                parent=int(fields[0]),
                session=int(fields[2]),
                born=f"{boot}:{fields[18]}",
            )
    return found


def members(leader: int, born: str) -> dict[int, Process]:
    """Live processes of the session that ``leader`` opened, and their descendants.

    The leader itself may be dead.
    """
    processes = table()
    # A reused id: the system reuses it only after the session has no member left.
    if leader in processes and processes[leader].born != born:
        return {}

    found = {pid: process for pid, process in processes.items() if process.session == leader}
    while True:
        children = {
            pid: process
            for pid, process in processes.items()
            if process.parent in found and pid not in found
        }
        if not children:
            return found
        found |= children


def alive(processes: Mapping[int, Process]) -> dict[int, Process]:
    """Those of ``processes`` that are still alive."""
    now = table()
    return {
        pid: process
        for pid, process in processes.items()
        if pid in now and now[pid].born == process.born
    }


def end(
    receivers: Mapping[int, Process],
    signum: signal.Signals,
    awaited: Mapping[int, Process],
    seconds: float,
) -> None:
    """Send ``signum`` to the receivers, then wait until all of ``awaited`` end, for ``seconds`` at
    most."""
    for pid in alive(receivers):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
    deadline = time.monotonic() + seconds
    while alive(awaited) and time.monotonic() < deadline:
        time.sleep(0.1)
