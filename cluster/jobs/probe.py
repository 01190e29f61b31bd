"""``python -m cluster.jobs.probe``: exit code 0 if this machine's Ray node is healthy, for probes of
pods and containers.

The node's own agent says so: it asks its raylet, and on the head the cluster's store too. Ray 2.60,
``/api/local_raylet_healthz`` on the agent's port, which is 52365 unless ``RAY_AGENT_PORT`` names
another.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

SECONDS = 5.0


def healthy(host: str = "127.0.0.1", port: int = 52365) -> bool:
    """Whether the node's agent answers, and its raylet lives."""
    request = urllib.request.Request(
        f"http://{host}:{port}/api/local_raylet_healthz", headers=_token()
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return b"success" in answer.read()
    except (OSError, urllib.error.URLError):
        return False


def _token() -> dict[str, str]:
    token = os.environ.get("RAY_AUTH_TOKEN")
    if not token and (path := os.environ.get("RAY_AUTH_TOKEN_PATH")):
        token = Path(path).read_text(encoding="utf-8")
    return {"Authorization": f"Bearer {token.strip()}"} if token else {}


if __name__ == "__main__":
    sys.exit(
        not healthy(
            os.environ.get("RAY_AGENT_HOST", "127.0.0.1"),
            int(os.environ.get("RAY_AGENT_PORT", "52365")),
        )
    )
