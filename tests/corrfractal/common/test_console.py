"""Progress is a bar on a terminal, a real one here, and lines elsewhere; both tell counts, time
left and the note."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

LOOP = """
import time
from corrfractal.common import console
console.LOG_EVERY_SECONDS = 0.0
with console.progress("videos", 4) as advance:
    for n in range(1, 4):
        time.sleep(0.2)
        advance(1, f"{n} clips, 1 rejected")
    time.sleep(0.3)
    advance(1, "4 clips, 1 rejected")
"""


def on_a_terminal(columns: int) -> str:
    """What the loop writes to a pseudo-terminal of that width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")
    }
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP], stderr=slave, env={**environment, "TERM": "xterm"}
    )
    os.close(slave)
    written = b""
    while True:
        try:
            block = os.read(master, 65536)
        except OSError:  # what Linux says when the last writer has gone
            break
        if not block:
            break
        written += block
    os.close(master)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())


def test_a_terminal_shows_a_bar_with_counts_time_left_and_the_note():
    shown = on_a_terminal(100)
    assert re.search(r"videos ━+.*1/4 \d:\d\d:\d\d \d:\d\d:\d\d left 1 clips, 1 rejected", shown)
    assert re.search(r"4/4 \d:\d\d:\d\d +4 clips, 1 rejected\s*$", shown)
    assert "\n" not in shown.strip().replace("\r\n", "\r")


def test_a_narrow_terminal_is_not_flooded_with_lines():
    assert on_a_terminal(60).count("\n") <= 4


def test_elsewhere_it_is_a_line_now_and_then():
    done = subprocess.run(
        [sys.executable, "-c", LOOP], stderr=subprocess.PIPE, text=True, check=True
    )
    first, *_, last = done.stderr.splitlines()
    assert re.fullmatch(r"videos: 1/4 in \d+ s, \d+ s left; 1 clips, 1 rejected", first)
    assert re.fullmatch(r"videos: 4/4 in \d+ s; 4 clips, 1 rejected", last)
