"""The identity of a video: SHA-256 of the bytes that are decoded, and a way to see that they stay
the same.

Hashing and decoding are two readings of a file, often in two processes with minutes between them.
``state`` is cheap and tells whether anything was written or replaced in between; only where it
differs is a file hashed again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corrfractal.common.errors import VideoError
from corrfractal.common.files import file_sha256

from .frame_folder import frame_files

CHANGED = "it changed while it was read; a copy or a download may be in progress"
ATTEMPTS = 3  # a backup that adds a hard link changes the state of a file once, and not its bytes
# Clocks of file systems are coarse: a second change right after a first may leave no trace
SETTLED_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a video file, or a folder of frames, held when it was hashed.

    Attributes:
        sha256: hex, of the bytes of a file, or of a line ``name SHA-256`` for each frame of a
            folder.
        bytes: their number.
        state: ``state`` of then; ``""`` where it was changed so recently that its state proves
            nothing.
    """

    sha256: str
    bytes: int
    state: str


def content_files(path: Path) -> list[Path]:
    """The files that make a video: itself, or the frames of a folder in their order.

    Raises:
        OSError: it cannot be read.
    """
    return frame_files(path) if path.is_dir() else [path]


def state(path: Path) -> str:
    """Names, sizes, times of change and inodes of a video's files, as a hex digest.

    Equal states mean that nothing was written, replaced, added or removed in between.

    Raises:
        OSError: a file cannot be reached.
    """
    return _state(content_files(path))[0]


def content_sha256(path: Path) -> str:
    """SHA-256 (hex) of what a video holds, see ``Content``.

    Raises:
        OSError: a file cannot be read.
    """
    files = content_files(path)
    _state(files)
    return _sha256(path, files)


def read_content(path: Path) -> Content:
    """Hash a video.

    Raises:
        OSError: a file cannot be read.
        VideoError: it changed at every attempt (stage ``"read"``).
    """
    for _ in range(ATTEMPTS):
        started = time.time()
        files = content_files(path)
        before, changed = _state(files)
        sha256 = _sha256(path, files)
        if state(path) == before:
            settled = changed < started - SETTLED_SECONDS
            return Content(
                sha256=sha256,
                bytes=sum(file.stat().st_size for file in files),
                state=before if settled else "",
            )
    raise VideoError(str(path), "read", CHANGED)


def _facts(file: Path) -> os.stat_result:
    """What the system knows of a regular file; reading a pipe could block forever."""
    facts = file.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    return facts


def _state(files: Sequence[Path]) -> tuple[str, float]:
    """The state, and when a file was last changed, in seconds of the system's clock."""
    facts = [(file.name, _facts(file)) for file in files]
    # The device is left out: it differs between hosts that share a file system.
    lines = [
        f"{name}\0{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}\n" for name, s in facts
    ]
    text = "".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest(), max((s.st_ctime for _, s in facts), default=0.0)


def _sha256(path: Path, files: Sequence[Path]) -> str:
    if not path.is_dir():
        return file_sha256(path)
    lines = [f"{file.name} {file_sha256(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
