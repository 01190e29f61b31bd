"""Messages of the workers to the user.

Ray does not forward what a worker prints, and the driver may be on another host: the log records of
a worker go to a file in the run's folder, one JSON object a line, and the driver shows them
(``corrfractal.common.logs.forwarded_records``). Workers share ``messages.log`` in a local folder.
An object store cannot append, so at a URI each rank has a file of its own.
"""

from __future__ import annotations

import re

MESSAGES = "messages.log"
OF_ANY_RANK = re.compile(r"messages(-rank-\d+)?\.log")


def messages_name(rank: int) -> str:
    """Name of a rank's file in a folder at a URI."""
    return MESSAGES if rank == 0 else f"messages-rank-{rank}.log"
