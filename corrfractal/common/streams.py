"""Standard streams that cannot stop a command: closed, full, without a reader, or unable to show a
character.

What a command prints is about its work and is not the work. A stream that fails takes nothing more,
and the work and its exit code stay. ``prepare_streams`` is called once, at the start of a process.
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

    A missing descriptor would be given to the next file that is opened, a data base or a video, and
    whatever a library prints to its standard output would end in that file.
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
    """Text to a file descriptor: never raises over a character, nor when the other end fails; see
    ``lost``."""
    raw = _Forgiving(descriptor, "w", closefd=False)
    # A line at a time, as on a terminal: what a killed process printed is not lost in a buffer.
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="bytes-or-escape", line_buffering=True
    )


def lost(stream: TextIO) -> OSError | None:
    """Why a stream of ``safe_writer`` took no more; None while it takes everything."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, _Forgiving) else None


def _bytes_or_escape(exc: UnicodeError) -> tuple[str | bytes, int]:
    """The name of a file that is not text is written as its bytes, other characters as an escape."""
    try:
        return codecs.lookup_error("surrogateescape")(exc)
    except UnicodeError:
        return codecs.backslashreplace_errors(exc)


codecs.register_error("bytes-or-escape", _bytes_or_escape)


def _safe(stream: TextIO | None, original: TextIO | None, descriptor: int) -> Any:
    if stream is not original:
        return stream  # ours already, or that of a program or test around us
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()
    return safe_writer(descriptor, stream.encoding if stream is not None else "utf-8")


class _Forgiving(io.FileIO):
    """A descriptor that is written until it fails, and then takes everything and writes nothing."""

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        if self.lost is not None:
            return len(data)
        try:
            written = super().write(data)
            while written is None:  # a program around us made it non-blocking
                select.select([], [self], [])
                written = super().write(data)
        except OSError as exc:
            self.lost = exc
            return len(data)
        return written
