"""Properties of finding and ending the processes of a session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from cluster.jobs import processes

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes are read from /proc"
)

# A leader with one child in its session and one that opens its own session, as the driver of a Ray
# job does.
FAMILY = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
time.sleep(60)
"""


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_a_session_with_its_descendants_is_found_and_ended_and_nothing_else() -> None:
    bystander = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    leader = subprocess.Popen([sys.executable, "-c", FAMILY], start_new_session=True)
    try:
        born = processes.table()[leader.pid].born
        assert until(lambda: len(processes.members(leader.pid, born)) == 3)
        family = processes.members(leader.pid, born)
        assert bystander.pid not in family
        assert os.getpid() not in family
        processes.end(family, signal.SIGTERM, family, 10)
        assert processes.alive(family) == {}
        assert bystander.pid in processes.table()
    finally:
        for process in (leader, bystander):
            process.kill()
            process.wait()


def test_another_process_with_the_same_id_is_no_member() -> None:
    assert processes.members(os.getpid(), born="another boot:1") == {}


def test_a_zombie_counts_as_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        assert until(lambda: child.pid not in processes.table())
    finally:
        child.wait()
