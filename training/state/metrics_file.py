"""``metrics.jsonl``: one line per logged step, and the queue of what MLflow may still lack.

A line holds ``step``, ``time`` (Unix milliseconds) and the metrics by name; names that begin with
``system/`` are the load of rank 0's machine. ``training.state.uploader`` reads the lines from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from corrfractal.files.atomic import write_text


@dataclass(frozen=True, kw_only=True)
class MetricLine:
    """The metrics of a step, and when they were taken, in Unix milliseconds."""

    step: int
    time: int
    values: Mapping[str, float]

    def to_json(self) -> str:
        """The line of the file, with its newline."""
        return json.dumps({"step": self.step, "time": self.time, **self.values}) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> MetricLine:
        """The inverse of ``to_json``."""
        values = json.loads(text)
        return cls(step=values.pop("step"), time=values.pop("time"), values=values)


class MetricsFile:
    """Appends lines in order. On a full disk a line is kept in memory and written with the next.

    Args:
        path: of the file. Existing lines of steps after ``first`` are dropped.
        first: step from which the run resumes.
    """

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        text = "".join(line.to_json() for line in read_lines(path, first))
        write_text(path, text)
        self._size = len(text.encode())  # of complete lines, bytes
        self._unwritten = b""

    def append(self, line: MetricLine) -> None:
        """Add a line.

        Raises:
            OSError: it cannot be written now; the next call tries again.
        """
        self._unwritten += line.to_json().encode()
        self.flush()

    def flush(self) -> None:
        """Write the lines that could not be written before.

        Raises:
            OSError: they still cannot be written.
        """
        with self.path.open("r+b") as file:
            # On a full disk an earlier attempt may have written a part of these lines.
            file.truncate(self._size)
            file.seek(self._size)
            file.write(self._unwritten)
        self._size += len(self._unwritten)
        self._unwritten = b""


def read_lines(path: Path, last: int) -> list[MetricLine]:
    """The complete lines of a metrics file for steps up to ``last``; none if there is no file."""
    lines = [MetricLine.from_json(text) for text in _complete_lines(path)]
    return [line for line in lines if line.step <= last]


def last_line(path: Path) -> MetricLine | None:
    """The last complete line of a metrics file, if there is one."""
    texts = _complete_lines(path)
    return MetricLine.from_json(texts[-1]) if texts else None


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    texts = path.read_text().splitlines(keepends=True)
    return [text for text in texts if text.endswith("\n")]
