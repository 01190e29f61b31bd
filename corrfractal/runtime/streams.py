"""Standard streams whose failures do not stop a command.

A stream can be closed, full, without a reader, or unable to encode a character. The work and its
exit code do not depend on it: after a failure, further output is discarded. ``prepare_streams`` is
called once, at the start of a process.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
from typing import Any, TextIO


def prepare_streams() -> None:
    """Open missing standard streams on the null device, and make writing to the others safe.

    Otherwise the next file that is opened, such as a database, would get the number of the missing
    descriptor, and what a library prints would be written into that file.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number, which is this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _safe(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _safe(sys.stderr, sys.__stderr__, 2)


def safe_writer(descriptor: int, encoding: str = "utf-8") -> TextIO:
    """A text stream on a file descriptor that never raises, neither for a character nor for a
    failed write; ``lost`` gives the first failure."""
    raw = _Forgiving(descriptor, "w", closefd=False)
    # Line buffering, so that a killed process loses no line.
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="bytes-or-escape", line_buffering=True
    )


def lost(stream: TextIO) -> OSError | None:
    """The error after which a stream of ``safe_writer`` discards output; None: no error so far."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, _Forgiving) else None


def _bytes_or_escape(exc: UnicodeError) -> tuple[str | bytes, int]:
    """Encode file names that are not UTF-8 as their bytes, other characters as an escape."""
    try:
        return codecs.lookup_error("surrogateescape")(exc)
    except UnicodeError:
        return codecs.backslashreplace_errors(exc)


codecs.register_error("bytes-or-escape", _bytes_or_escape)


def _safe(stream: TextIO | None, original: TextIO | None, descriptor: int) -> Any:
    if stream is not original:
        return stream  # already replaced, by us or by a calling program or test
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()
    return safe_writer(descriptor, stream.encoding if stream is not None else "utf-8")


class _Forgiving(io.FileIO):
    """Writes to a descriptor until the first error, and then discards everything."""

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        if self.lost is not None:
            return len(data)
        try:
            written = super().write(data)
            while written is None:  # the parent process made it non-blocking
                select.select([], [self], [])
                written = super().write(data)
        except OSError as exc:
            self.lost = exc
            return len(data)
        return written
