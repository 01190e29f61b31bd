"""What FFmpeg reports about a file besides its frames: errors that it conceals, and reasons.

PyAV and decord each bring an FFmpeg of their own, and each conceals damage: the decoder logs an
error and returns a repaired frame. The log is therefore read while frames are decoded.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corrfractal.common.errors import VideoError

# FFmpeg's levels grow as messages become less severe: fatal 8, error 16, warning 24.
AV_LOG_ERROR = 16

_LOCK = threading.Lock()
_OPEN_CAPTURES: list[None] = []  # one item per open ``capture_log`` block, over all threads


@contextmanager
def capture_log(level: int | None = None) -> Iterator[list[Any]]:
    """Collect the messages that PyAV's FFmpeg logs on this thread inside the block.

    Args:
        level: least severe level to keep, as in ``av.logging``; default: errors.

    Yields:
        A list of (level, logger, message), complete after the block.
    """
    import av.logging

    wanted = av.logging.ERROR if level is None else level
    with _verbose_logging(), av.logging.Capture(local=True) as messages:
        yield messages
    messages[:] = [message for message in messages if message[0] <= wanted]


@contextmanager
def _verbose_logging() -> Iterator[None]:
    """Raise PyAV's log level, which all threads share, until the last open block ends."""
    import av.logging

    with _LOCK:
        _OPEN_CAPTURES.append(None)
        av.logging.set_level(av.logging.INFO)
        # By default a repeated message is dropped: a second read of a damaged file looked intact.
        av.logging.set_skip_repeated(False)
    try:
        yield
    finally:
        with _LOCK:
            _OPEN_CAPTURES.pop()
            if not _OPEN_CAPTURES:
                av.logging.set_level(None)


class ErrorCounter:
    """Counts the errors that an FFmpeg library logs in this process, including concealed ones.

    Args:
        libavutil: path of the library's shared object.

    Attributes:
        count: errors so far, over all files and threads.
    """

    def __init__(self, libavutil: Path) -> None:
        self.count = 0
        library = ctypes.CDLL(str(libavutil))
        callback_type = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
        )
        # Keep a reference: ctypes frees the callback with its Python object.
        self._callback = callback_type(self._on_message)
        library.av_log_set_callback(self._callback)
        # A decoder thread may still log after Python has freed the callback.
        atexit.register(library.av_log_set_callback, library.av_log_default_callback)

    def _on_message(self, context: object, level: int, message: bytes, values: object) -> None:
        # The upper bits of a level are the colour of its text.
        self.count += level & 0xFF <= AV_LOG_ERROR


@functools.cache
def decord_errors() -> ErrorCounter:
    """The counter of decord's own FFmpeg, one per process.

    Raises:
        ImportError: decord was built from source, without a bundled libavutil.
    """
    import decord

    package = Path(decord.__file__).parent
    libraries = [
        *package.parent.glob("decord2.libs/libavutil*"),  # Linux wheels
        *package.glob(".dylibs/libavutil*"),  # macOS wheels
    ]
    if not libraries:
        raise ImportError(
            f"{package} is not a wheel of decord2 from a package index: it bundles no libavutil"
        )
    return ErrorCounter(libraries[0])


def decoder_reason(exc: BaseException) -> str:
    """The first line of a decoder's message, reduced to what every run reports alike.

    Reasons are stored in shards, whose bytes must not depend on times, paths or build numbers.
    """
    if isinstance(exc, VideoError):
        return exc.reason
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    text = lines[0] if lines else type(exc).__name__

    # decord: keep the failed check. PyAV appends the last log line of any file read before.
    text = text.split("Check failed: ")[-1].partition("; last error log:")[0]
    # decord: "[08:01:27] /project/src/video_reader.cc:285: "
    text = re.sub(r"^\[\d\d:\d\d:\d\d\] \S+?:\d+: *", "", text)
    # FFmpeg: "[path of the file] "
    text = re.sub(r"^\[[^\]]*[/.][^\]]*\] *", "", text)
    text = re.sub(r"^\[Errno -?\d+\] *", "", text)
    # A path at the end: ": '/data/a.mp4'" or "Error reading /data/a.mp4"
    return re.sub(r":? *'[^']*'$|(?<=Error reading) .*", "", text)[:200]
