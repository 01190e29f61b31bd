"""A studio in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, kw_only=True)
class RunningStudio:
    """A studio that was started: its process, the address that it printed, and its folder."""

    process: subprocess.Popen[str]
    address: str
    out: Path

    @property
    def port(self) -> int:
        return urlsplit(self.address).port or 0

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.address).query)["token"][0]

    @property
    def cookie(self) -> str:
        return f"corrfractal-studio-{self.port}={self.token}"

    def stop(self) -> int:
        """End it as Ctrl-C does; returns its exit code."""
        self.process.terminate()
        self.process.communicate(timeout=120)
        return self.process.returncode


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def start_studio(out: Path, *arguments: str | Path) -> RunningStudio:
    command = [sys.executable, "-m", "corrfractal", "studio", "--no-browser", "--out", out]
    process = subprocess.Popen(
        [*map(str, command), *map(str, arguments)],
        cwd=out.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        found = re.search(r"http://\S+", line)
        if found:
            return RunningStudio(process=process, address=found[0], out=out)
    raise AssertionError("".join(lines))
