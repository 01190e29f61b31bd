"""A local folder whose files are copied to a folder at a URI, in a thread.

Programs write local files as always; the store gets each file whole. A store that does not answer
is asked again: files wait where they are.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from corrfractal.common.errors import CorrFractalError

from . import storage

SYNC_SECONDS = 2.0  # between two looks for changed files
SHARE = 0.05  # of the time that copying changed files may take
FIRST_PAUSE = 0.5  # seconds between the first two attempts
LONGEST_PAUSE = 10.0
PATIENCE = 60.0  # seconds of attempts for one file
FINAL_PATIENCE = 600.0  # the same for files without which the work is not complete

PREFIX = "corrfractal-run-"
LOCK = ".lock"

log = logging.getLogger(__name__)


class Mirror:
    """Copies files of a local folder to a URI, under the same names.

    Args:
        local: the folder.
        uri: where its files go.
        patterns: of the files that the thread copies when they change, relative to ``local``;
            names that begin with a dot are left out.
        first: of changed files, these are copied before the others.
        deletions: whether a copied or fetched file that is deleted here is deleted there.
        check: called before a file is published; raises if this process may not write any more.
        tick: called by the thread every ``SYNC_SECONDS``; its ``OSError`` is ignored.
    """

    def __init__(
        self,
        local: Path,
        uri: str,
        patterns: Iterable[str] = (),
        *,
        first: Callable[[str], bool] = lambda name: False,
        deletions: bool = False,
        check: Callable[[], None] = lambda: None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._local = local
        self._uri = uri
        self._patterns = tuple(patterns)
        self._first = first
        self._deletions = deletions
        self._check = check
        self._tick = tick
        self._copied: dict[str, str] = {}  # stamp of each file when it was copied
        self._held: dict[str, str] = {}  # stamp of each empty file
        self._listing = threading.Lock()
        # One copy of a file at a time: an older state must not replace a newer one.
        self._locks: dict[str, threading.Lock] = {}
        self._away = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._thread.join()

    def fetch(self, name: str) -> bool:
        """Copy a file of the store here, if it exists there."""
        target = self._local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        try:
            storage.fetch(storage.join(self._uri, name), part)
        except FileNotFoundError:
            part.unlink(missing_ok=True)
            return False
        with self._listing:
            part.replace(target)
            self._copied[name] = _stamp(target)
        return True

    def hold(self, name: str) -> None:
        """Put an empty file in the place of a file of the store, which stays as it is there unless
        the empty one is replaced."""
        target = self._local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        self._held[name] = _stamp(target)

    def publish(
        self,
        names: Iterable[str],
        *,
        patience: float = PATIENCE,
        hurry: threading.Event | None = None,
    ) -> None:
        """Copy files to the store, one after another; the last one may count as the sign that all
        are there.

        Args:
            names: of files of the local folder.
            patience: seconds of attempts for each.
            hurry: when it is set, a file that fails is not tried again.

        Raises:
            OSError: the store did not take a file in time.
        """
        for name in names:
            self._insist(lambda name=name: self._put(name), patience, hurry)  # type: ignore[misc]

    def publish_changed(self, *, patience: float = PATIENCE) -> None:
        """Copy the files that changed since they were copied.

        Raises:
            OSError: the store did not take one in time.
        """
        self._insist(self._delete_gone, patience, None)
        self.publish(self._changed(), patience=patience)

    def _insist(
        self, work: Callable[[], None], patience: float, hurry: threading.Event | None
    ) -> None:
        deadline = time.monotonic() + patience
        pause = FIRST_PAUSE
        hurry = hurry or threading.Event()
        while True:
            try:
                work()
            except OSError as exc:
                self._warn(exc)
                if time.monotonic() + pause > deadline or hurry.wait(pause):
                    raise
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._recovered()
                return

    def _put(self, name: str) -> None:
        path = self._local / name
        target = storage.join(self._uri, name)
        with self._locks.setdefault(name, threading.Lock()):
            stamp = _stamp(path)
            if not stamp:
                return  # deleted since it was listed
            self._check()
            storage.upload(path, target)
            self._copied[name] = stamp

    def _changed(self) -> list[str]:
        """Names of changed files, those of ``first`` before the others."""
        # In this order: a record that grows while the others are listed is listed after them.
        with self._listing:
            others = [name for name in self._listed() if not self._first(name)]
            return [name for name in self._listed() if self._first(name)] + others

    def _listed(self) -> list[str]:
        names = []
        for pattern in self._patterns:
            for path in sorted(self._local.glob(pattern)):
                relative = path.relative_to(self._local)
                if any(part.startswith(".") for part in relative.parts) or not path.is_file():
                    continue
                name = relative.as_posix()
                if _stamp(path) not in (self._copied.get(name), self._held.get(name), ""):
                    names.append(name)
        return names

    def _delete_gone(self) -> None:
        if not self._deletions:
            return
        for name in list(self._copied):
            if (self._local / name).exists():
                continue
            self._check()
            storage.remove(storage.join(self._uri, name))
            del self._copied[name]

    def _run(self) -> None:
        due = 0.0
        while not self._end.wait(SYNC_SECONDS):
            with suppress(OSError):
                self._tick()
            started = time.monotonic()
            if started < due:
                continue
            try:
                self._delete_gone()
                for name in self._changed():
                    self._put(name)
            except OSError as exc:
                self._warn(exc)
            except CorrFractalError as exc:  # the lease was lost: the program's own check says so
                log.debug("files of %s are not copied any more: %s", self._local, exc)
                return
            else:
                self._recovered()
            now = time.monotonic()
            due = now + (now - started) / SHARE

    def _warn(self, exc: OSError) -> None:
        if not self._away:
            log.warning(f"{self._uri} takes no files ({exc.strerror or exc}); trying again")
        self._away = True

    def _recovered(self) -> None:
        if self._away:
            log.info(f"{self._uri} takes files again")
        self._away = False


@contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder of this process, which is deleted after the block.

    Folders that killed processes left are deleted by the next call: their locks are free.
    """
    base = Path(tempfile.gettempdir())
    for stray in base.glob(f"{PREFIX}*"):
        _remove_abandoned(stray)
    created = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=base))
    with (created / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now under a name that others look at: with a free lock it would be deleted.
        folder = created.rename(base / created.name.removeprefix("."))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    with suppress(OSError), (folder / LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def _stamp(path: Path) -> str:
    """State of a file; ``""`` if there is none."""
    try:
        return storage.local_stamp(path.stat())
    except FileNotFoundError:
        return ""
