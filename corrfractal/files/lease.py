"""The lease of a folder at a URI: one writer at a time, among machines that share only the store.

``owner.json`` names the holder and when its lease ends. The holder renews it in a thread. A lease
that is not renewed belongs to whoever takes it next. A holder that lost its lease notices at its
next renewal or ``check``, and must not publish anything.

Clocks of machines differ: a lease counts as expired when it ended ``CLOCK_MARGIN`` ago by the own
clock, or when nothing has changed for its whole length since it was first seen.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from corrfractal.common.errors import CorrFractalError

from . import storage

OWNER = "owner.json"
SECONDS = 60.0  # length of a lease
CLOCK_MARGIN = 30.0  # seconds
RENEWALS = 3  # in the length of a lease
PATIENCE = 1.5  # lengths of a lease to wait at least, before a holder counts as alive
SEEN_RENEWALS = 2  # that a holder was seen to make, before it counts as alive

log = logging.getLogger(__name__)


class LeaseLostError(CorrFractalError):
    """Another process has taken the lease over."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lease, as ``owner.json`` names it.

    Attributes:
        attempt: of one process at one folder; unique.
        group: of processes that pass the lease on to one another, such as the workers that one
            driver starts one after another.
        host, process: where it runs.
        since: time of the start, ISO 8601.
        expires: end of the lease, Unix seconds.
        released: whether it was given up.
    """

    attempt: str
    group: str
    host: str
    process: int
    since: str
    expires: float
    released: bool = False

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


class Lease:
    """Holds the lease of a folder within a ``with`` block.

    Args:
        folder: URI.
        work: what writes there, for messages: ``another WORK is writing to FOLDER``.
        group: see ``Holder``; None: no other process is of this group.
        seconds: length of the lease.
    """

    def __init__(
        self, folder: str, work: str, group: str | None = None, seconds: float | None = None
    ) -> None:
        self._folder = folder
        self._work = work
        self._location = storage.join(folder, OWNER)
        self._seconds = SECONDS if seconds is None else seconds
        attempt = uuid.uuid4().hex
        self._own = Holder(
            attempt=attempt,
            group=group or attempt,
            host=socket.gethostname(),
            process=os.getpid(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            expires=0.0,
        )
        self._lost: Holder | None = None
        self._checked = float("-inf")
        self._end = threading.Event()
        self._writing = threading.Lock()

    def __enter__(self) -> Lease:
        self._acquire()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Give the lease up, so that the next holder need not wait for its end."""
        self._end.set()
        self._thread.join()
        try:
            with self._writing:
                found, stamp = self._read()
                if found is not None and found.attempt == self._own.attempt:
                    self._write(replace(self._own, expires=0.0, released=True), stamp)
        except OSError as exc:
            log.debug("cannot give up the lease of %s: %s", self._folder, exc)  # it will expire

    def check(self, every: float = 0.0) -> None:
        """Check that this process still holds the lease. Call it before publishing a file.

        Args:
            every: seconds for which a check counts: many small files need not ask for each.

        Raises:
            LeaseLostError: names the present holder.
            OSError: the store does not answer.
        """
        if self._lost is None and time.monotonic() - self._checked >= every:
            with self._writing:
                self._update()
            self._checked = time.monotonic()
        self.refuse_lost()

    def refuse_lost(self) -> None:
        """Raise a ``LeaseLostError`` if a renewal found another holder; asks the store nothing."""
        if self._lost is not None:
            raise LeaseLostError(
                f"{self._folder} was taken over by another {self._work} ({self._lost}): this "
                "process has written nothing there since, and stops"
            )

    def _acquire(self) -> None:
        patient_until = time.monotonic() + PATIENCE * self._seconds
        seen: Holder | None = None
        seen_at = 0.0
        renewals = -1
        while True:
            found, stamp = self._read()
            if self._is_free(found) or (
                found == seen and time.monotonic() > seen_at + self._seconds
            ):
                if self._write(self._renewed(), stamp):
                    return
                continue  # another process was faster
            assert found is not None
            if found != seen:
                if seen is None:
                    log.info(
                        f"{self._folder} belongs to another {self._work} ({found}); waiting until "
                        "its lease ends"
                    )
                seen = found
                seen_at = time.monotonic()
                renewals += 1
            if renewals >= SEEN_RENEWALS and time.monotonic() > patient_until:
                raise CorrFractalError(
                    f"another {self._work} is writing to {self._folder} ({found}), and renews its "
                    "lease: stop it, or use another --out"
                )
            time.sleep(min(1.0, self._seconds / 10))

    def _is_free(self, found: Holder | None) -> bool:
        if found is None or found.released or found.group == self._own.group:
            return True
        return time.time() > found.expires + CLOCK_MARGIN

    def _renew(self) -> None:
        while not self._end.wait(self._seconds / RENEWALS):
            try:
                with self._writing:
                    self._update(renew=True)
            except OSError as exc:
                # Another process that reaches the store may take over: `check` will tell.
                log.debug("cannot renew the lease of %s: %s", self._folder, exc)
            if self._lost is not None:
                return

    def _update(self, *, renew: bool = False) -> None:
        """Read who holds the lease, and renew it; sets ``_lost``."""
        while True:
            found, stamp = self._read()
            if found is not None and found.attempt != self._own.attempt:
                self._lost = found
                return
            # Missing: somebody deleted it, and nobody took it.
            if (found is not None and not renew) or self._write(self._renewed(), stamp):
                return

    def _renewed(self) -> Holder:
        return replace(self._own, expires=time.time() + self._seconds)

    def _read(self) -> tuple[Holder | None, str | None]:
        """The holder, and the stamp of a state no newer than it."""
        try:
            stamp = storage.file_fact(self._location)[1]
            return Holder(**json.loads(storage.read(self._location))), stamp
        except FileNotFoundError:
            return None, None
        except (ValueError, TypeError) as exc:
            raise CorrFractalError(
                f"{self._location} does not name the holder of a lease: it was changed; delete it "
                "if nothing writes there"
            ) from exc

    def _write(self, holder: Holder, stamp: str | None) -> bool:
        return storage.write_if(self._location, json.dumps(asdict(holder)).encode(), stamp)
