"""Which processes belong to a session that this project opened, and how they are ended (Linux, from
``/proc``).

A session (POSIX ``setsid``) is inherited by children, so its members are known without any register
of process ids. A child that opens a session of its own, as the driver of a Ray job does, is still
found as a descendant.
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
    """A living process.

    Attributes:
        born: boot id and start time; tells it from another process that later gets the same id.
    """

    pid: int
    parent: int
    session: int
    born: str


def table() -> dict[int, Process]:
    """All living processes by id. A zombie counts as dead: the process 1 of a container may reap
    late or never."""
    boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    found = {}
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended while the table was read
            # proc(5): "pid (name) state ppid pgrp session ... starttime(22nd)"; the name may hold
            # spaces and brackets
            state, *fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if state not in "ZX":
                pid = int(folder.name)
                found[pid] = Process(
                    pid=pid,
                    parent=int(fields[0]),
                    session=int(fields[2]),
                    born=f"{boot}:{fields[18]}",
                )
    return found


def members(leader: int, born: str) -> dict[int, Process]:
    """Living processes of the session that ``leader`` opened, and their descendants; the leader
    itself may be dead."""
    processes = table()
    if leader in processes and processes[leader].born != born:
        return {}  # the id went to a stranger, so nothing of the session was left
    found = {pid: process for pid, process in processes.items() if process.session == leader}
    grew = bool(found)
    while grew:
        children = {
            pid: process
            for pid, process in processes.items()
            if process.parent in found and pid not in found
        }
        found |= children
        grew = bool(children)
    return found


def alive(processes: Mapping[int, Process]) -> dict[int, Process]:
    """Those of ``processes`` that still live."""
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
    """Send ``signum`` to the receivers, then wait until all ``awaited`` are dead, at most
    ``seconds``."""
    for pid in alive(receivers):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
    deadline = time.monotonic() + seconds
    while alive(awaited) and time.monotonic() < deadline:
        time.sleep(0.1)
