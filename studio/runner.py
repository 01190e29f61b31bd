"""The thread that propagates: one piece of work at a time, which can be paused and stopped between
two frames."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from corrfractal.common.errors import CorrFractalError

log = logging.getLogger(__name__)

Work = Callable[[Callable[[int], None]], None]
"""Takes ``advance``, which it calls with the number of frames done."""


class Stopped(Exception):
    """Ends work from within ``advance``."""


class Runner:
    """Runs work in a thread of its own.

    Attributes:
        title: of the latest work; empty before the first.
        error: why it failed; empty if it did not.
    """

    def __init__(self) -> None:
        self.title = ""
        self.error = ""
        self._thread: threading.Thread | None = None
        self._go_on = threading.Event()
        self._stop = False

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_paused(self) -> bool:
        return self.is_busy and not self._go_on.is_set()

    def start(self, title: str, work: Work, advanced: Callable[[int], None]) -> None:
        """Start work; the one in progress is stopped first.

        Args:
            title: for the page.
            work: what to do.
            advanced: called in the thread with the number of frames done.
        """
        self.stop()
        self.title = title
        self.error = ""
        self._stop = False
        self._go_on.set()

        def advance(count: int) -> None:
            advanced(count)
            self._go_on.wait()
            if self._stop:
                raise Stopped

        self._thread = threading.Thread(target=self._run, args=(work, advance), daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Wait before the next frame, with everything in memory."""
        self._go_on.clear()

    def go_on(self) -> None:
        """End a pause."""
        self._go_on.set()

    def stop(self) -> None:
        """End the work before its next frame, and wait for that."""
        self._stop = True
        self._go_on.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, work: Work, advance: Callable[[int], None]) -> None:
        try:
            work(advance)
        except Stopped:
            return
        except (CorrFractalError, OSError, MemoryError) as exc:
            self.error = str(exc) or type(exc).__name__
        except Exception as exc:
            # The page must not wait for a thread that died.
            log.exception("the work failed")
            self.error = f"{type(exc).__name__}: {exc}"
