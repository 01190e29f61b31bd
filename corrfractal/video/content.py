"""Identity of a video: the SHA-256 of the bytes that are decoded, and a check that they stay equal.

A file is hashed and decoded in two separate reads, often in two processes with minutes between
them. ``state`` is cheap and detects any write or replacement in between; a file is hashed again
only if its state differs.
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
from corrfractal.files.atomic import file_sha256

from .frame_folder import frame_files

CHANGED = "it changed while it was read; a copy or a download may be in progress"

# A backup that adds a hard link changes the state of a file once, but not its bytes.
ATTEMPTS = 3

# Clocks of file systems are coarse: two changes within this time may leave the same state.
SETTLED_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a video file or a frame folder contained when it was hashed.

    Attributes:
        sha256: hex; of the bytes of a file, or of one line ``name SHA-256`` per frame of a folder.
        bytes: total size.
        state: result of ``state`` at that time; ``""`` if the video was changed so recently that an
            equal state would prove nothing.
    """

    sha256: str
    bytes: int
    state: str


def content_files(path: Path) -> list[Path]:
    """The files of a video: the file itself, or the frames of a folder in order.

    Raises:
        OSError: the folder cannot be read.
    """
    return frame_files(path) if path.is_dir() else [path]


def state(path: Path) -> str:
    """Hex digest of the names, sizes, times of change (mtime, ctime) and inodes of a video's files.

    If two states are equal, nothing was written, replaced, added or removed in between.

    Raises:
        OSError: a file cannot be accessed, or is not a regular file.
    """
    return _state_and_change(content_files(path))[0]


def content_sha256(path: Path) -> str:
    """SHA-256 (hex) of a video's content, defined as in ``Content``.

    Raises:
        OSError: a file cannot be read, or is not a regular file.
    """
    files = content_files(path)
    for file in files:
        regular_stat(file)
    return _sha256(path, files)


def read_content(path: Path) -> Content:
    """Hash a video.

    Raises:
        OSError: a file cannot be read, or is not a regular file.
        VideoError: (stage ``"read"``) it changed during every attempt.
    """
    for _ in range(ATTEMPTS):
        started = time.time()
        files = content_files(path)
        before, changed = _state_and_change(files)
        sha256 = _sha256(path, files)
        # An equal state after reading proves that the hash belongs to one version of the file.
        if state(path) == before:
            settled = changed < started - SETTLED_SECONDS
            return Content(
                sha256=sha256,
                bytes=sum(file.stat().st_size for file in files),
                state=before if settled else "",
            )
    raise VideoError(str(path), "read", CHANGED)


def _state_and_change(files: Sequence[Path]) -> tuple[str, float]:
    """The state, and the time of the last change in seconds of the system clock."""
    lines = []
    changed = 0.0
    for file in files:
        status = regular_stat(file)
        # The device number is left out: it differs between hosts that share a file system.
        numbers = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        lines.append(f"{file.name}\0{numbers}\n")
        changed = max(changed, status.st_ctime)

    # Names of files may contain bytes that are not UTF-8.
    text = "".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest(), changed


def regular_stat(file: Path) -> os.stat_result:
    """Status of a regular file; anything else is refused, since reading a pipe could block forever.

    Raises:
        OSError: the file cannot be accessed, or is not a regular file.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    return status


def _sha256(path: Path, files: Sequence[Path]) -> str:
    if not path.is_dir():
        return file_sha256(path)
    lines = [f"{file.name} {file_sha256(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
