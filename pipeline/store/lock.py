"""One build at a time in a local folder.

The lock is on the folder itself (``flock``), so no file is left behind, and the kernel releases it
when the process dies. Object stores have no locks: there, two builds of the same set write the same
bytes, and a build whose shards another one removed or replaced fails instead of naming them, see
``commit.check_stored``.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from corrfractal.common.errors import CallError, CorrFractalError
from corrfractal.files import storage


@contextmanager
def build_lock(out: str) -> Iterator[None]:
    """Hold the lock of a folder of shards, which is created if missing.

    Args:
        out: local path or URI; of a URI, nothing is locked.

    Raises:
        CallError: ``out`` cannot be created or is no folder.
        CorrFractalError: another process holds the lock.
    """
    if storage.is_uri(out):
        yield
        return
    try:
        storage.make_folder(out)
        folder = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise CallError(f"cannot make the folder {out}: {exc.strerror or exc}") from exc
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise CorrFractalError(
                f"another build is writing to {out}: wait for it or stop it, then run the same "
                "command again"
            ) from exc
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(folder)
