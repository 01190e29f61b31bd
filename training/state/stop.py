"""Stop a run at its next step, with a checkpoint: on SIGTERM to a worker, or by request of the
driver.

The driver requests it with a file, since its workers may be on other hosts. All workers must leave
the loop at the same step: ``training.loop`` counts their votes in the reduction of each step's
losses.
"""

from __future__ import annotations

import signal
import threading

from corrfractal.files import storage

_RECEIVED = threading.Event()


def catch_sigterm() -> None:
    """Record SIGTERM instead of ending the process. A no-op outside the main thread."""
    _RECEIVED.clear()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: _RECEIVED.set())


def catch_interrupts() -> None:
    """Record SIGTERM and Ctrl-C. A second one raises ``KeyboardInterrupt``: a step may take long,
    or wait for another process without end."""
    _RECEIVED.clear()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _record_or_interrupt)


def _record_or_interrupt(number: int, frame: object) -> None:
    if _RECEIVED.is_set():
        raise KeyboardInterrupt
    _RECEIVED.set()


def signal_received() -> bool:
    """Whether this process received a signal that is recorded."""
    return _RECEIVED.is_set()


def request_stop(out: storage.Location) -> None:
    """Request the workers of a run to stop, by a file in its folder."""
    storage.write(_file(out), b"")


def withdraw_stop(out: storage.Location) -> None:
    """Remove the request, if there is one."""
    storage.remove(_file(out))


def stop_requested(out: storage.Location) -> bool:
    """Whether the driver requests its workers to stop."""
    return storage.kind(_file(out)) == "file"


def _file(out: storage.Location) -> str:
    return storage.join(out, ".stop")
