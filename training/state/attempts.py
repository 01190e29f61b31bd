"""A record of every start of a run: when, on which host, with how many workers and which code."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime

from corrfractal.files import storage
from corrfractal.registry.provenance import code_state

ATTEMPTS = "attempts.jsonl"


def note_attempt(out: storage.Location, workers: tuple[int, int]) -> None:
    """Append a line for this start to ``attempts.jsonl``, which is uploaded when the run finishes.

    Args:
        out: folder of the run.
        workers: least and most.
    """
    attempt = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "workers": workers,
        **code_state(),
    }
    # Only the driver writes here, and an object store cannot append.
    location = storage.join(out, ATTEMPTS)
    earlier = storage.read(location) if storage.kind(location) == "file" else b""
    storage.write(location, earlier + json.dumps(attempt).encode() + b"\n")
