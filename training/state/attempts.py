"""A record of every start of a run: when, on which host, with how many workers and which code."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path

from corrfractal.registry.provenance import code_state

ATTEMPTS = "attempts.jsonl"


def note_attempt(out: Path, workers: tuple[int, int]) -> None:
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
    with (out / ATTEMPTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(attempt) + "\n")
