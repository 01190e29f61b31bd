"""Messages of the workers to the user.

Ray does not forward what a worker prints, and the driver may be on another host: the log records of
a worker go to ``messages.log`` in the run's folder, and the driver shows them
(``corrfractal.common.logs.forwarded_records``).
"""

from __future__ import annotations

from pathlib import Path


def messages_file(out: Path) -> Path:
    """The file of the messages of a run, one JSON object a line."""
    return out / "messages.log"
