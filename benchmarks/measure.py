"""Shared by all benchmarks: process CPU time, peak memory, and tables as Markdown and JSON.

Only ratios are meaningful: a benchmark runs ours and its baselines in turns in the same process, so
that other load on the machine slows both.
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

from corrfractal.runtime.process import cpu_count

ROOT = Path(__file__).resolve().parents[1]
# Tables as JSON, from which results.py writes results.md.
OUT = Path(__file__).parent / "out"
# Total time for the repeats of one measurement, so that slow baselines are repeated less often.
REPEAT_SECONDS = 8.0


def cpu_seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median process CPU time of ``work``, in seconds.

    The first call warms up and is not counted, unless it takes more than half of
    ``REPEAT_SECONDS``: then it is the only one. Further calls are limited to ``repeats`` and to
    ``REPEAT_SECONDS`` in all.
    """
    first = _timed(work)
    if first >= REPEAT_SECONDS / 2:
        return first
    affordable = int(REPEAT_SECONDS / max(first, 1e-9))
    count = max(1, min(repeats, affordable))
    return statistics.median(_timed(work) for _ in range(count))


def _timed(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def peak_mb(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> float:
    """Peak growth of resident memory, in MB, while the work that ``prepare`` returns runs.

    Runs in a new process, because memory that an allocator kept from earlier work would hide the
    growth. ``prepare`` is called in that process, so it must be a module-level function.
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
    # Resets VmHWM, the kernel's high-water mark of this process.
    Path("/proc/self/clear_refs").write_text("5")
    before = status_mb("VmRSS")
    seconds = _timed(work)
    return max(status_mb("VmHWM") - before, 0.1), seconds


def status_mb(field: str) -> float:
    """A line of /proc/self/status, such as ``VmRSS``, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field}")


def machine() -> dict[str, Any]:
    """Processor and package versions, on which the figures depend."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if "model name" in line]
    model = models[0] if models else platform.machine()
    packages = {
        name: version(name) for name in ("torch", "numpy", "faiss-cpu", "opencv-python-headless")
    }
    return {"cpu": model, "cores": cpu_count(), "python": platform.python_version(), **packages}


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a Markdown table, and write them to ``OUT`` for ``results.py``."""
    print(f"\n### {title}\n\n{table(rows)}")
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    values = {
        "title": title,
        "command": " ".join(["python", str(script), *sys.argv[1:]]),
        "machine": machine(),
        "rows": rows,
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{slug(title)}.json").write_text(json.dumps(values, indent=2))


def slug(title: str) -> str:
    """Key of a table: its title up to the colon, after which figures may vary."""
    return title.split(":")[0].lower().replace(" ", "-")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Format rows as a Markdown table; missing values are empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [
        columns,
        ["---"] * len(columns),
        *([_cell(row.get(column, "")) for column in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
