"""What all benchmarks share: process CPU time, peak memory, and a table as text and JSON.

Ratios are what counts: rivals run in the same process, one after another, and shared machines
disturb both alike.
"""

from __future__ import annotations

import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from corrfractal.common.process import cpu_count

PATIENCE = 8.0  # seconds: a slow rival is repeated less often


def cpu_seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median process CPU time of ``work`` after a first call; fewer repeats where they would exceed
    ``PATIENCE``."""
    times = [_timed(work)]
    if times[0] < PATIENCE / 2:
        times = [
            _timed(work) for _ in range(max(1, min(repeats, int(PATIENCE / max(times[0], 1e-9)))))
        ]
    return statistics.median(times)


def _timed(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def peak_mb(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> float:
    """Largest growth of resident memory while the work that ``prepare(*arguments)`` returns runs,
    MB.

    In a process of its own: an allocator that has grown before would hide what is taken now.
    ``prepare`` is a function of a module, since it is called there.
    """
    return peak_and_seconds(prepare, *arguments)[0]


def peak_and_seconds(
    prepare: Callable[..., Callable[[], Any]], *arguments: Any
) -> tuple[float, float]:
    """``peak_mb``, and the process CPU time of that one call."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_and_seconds, prepare, arguments).result()


def _peak_and_seconds(
    prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]
) -> tuple[float, float]:
    work = prepare(*arguments)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the kernel resets its high-water mark
    before = _status_mb("VmRSS")
    seconds = _timed(work)
    return max(_status_mb("VmHWM") - before, 0.1), seconds


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field}")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    packages = {
        name: version(name) for name in ("torch", "numpy", "faiss-cpu", "opencv-python-headless")
    }
    return {"cpu": model, "cores": cpu_count(), "python": platform.python_version(), **packages}


def print_table(title: str, rows: Sequence[dict[str, Any]], out: Path | None = None) -> None:
    """Print rows as a Markdown table; with ``out``, also write them as JSON, for ``results.py``."""
    print(f"\n### {title}\n\n{table(rows)}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        values = {"title": title, "command": command, "machine": machine(), "rows": rows}
        (out / f"{slug(title)}.json").write_text(json.dumps(values, indent=2))


def slug(title: str) -> str:
    """What tells tables apart: the title up to its colon, which figures may follow."""
    return title.split(":")[0].lower().replace(" ", "-")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table; a column that a row lacks stays empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [
        columns,
        ["---"] * len(columns),
        *([_cell(row.get(column, "")) for column in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
