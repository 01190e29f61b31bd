"""A studio in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def wait_until(
    condition: Callable[[], bool], problem: Callable[[], str] = lambda: "it did not happen in time"
) -> None:
    """Wait two minutes at most until a condition holds; ``problem`` says why it does not."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, problem()
        time.sleep(0.05)


@contextmanager
def start_studio(out: Path, *arguments: str | Path) -> Iterator[RunningStudio]:
    """A studio that ends with the block, and must end well."""
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
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            found = re.search(r"http://\S+", line)
            if found:
                break
        else:
            raise AssertionError("".join(lines))
        yield RunningStudio(process=process, address=found[0], out=out)
    finally:
        process.terminate()
        rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0, rest
