"""Messages of the workers to the user.

Ray does not forward what a worker prints, and the driver may be on another host: workers append to
``messages.log`` in the run's folder, and the driver prints its lines.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from corrfractal.common.console import say


def tell(out: Path, text: str) -> None:
    """Print a line, and append it to the messages of the run."""
    with contextlib.suppress(OSError):  # the message may be about a full disk
        say(text)
        with messages_file(out).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def messages_file(out: Path) -> Path:
    """The file of the messages of a run."""
    return out / "messages.log"
