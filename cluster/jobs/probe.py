"""``python -m cluster.jobs.probe``: health probe for pods and containers.

Exit code 0 if the Ray node of this machine is healthy. The node's agent checks its raylet and, on
the head, the cluster's store. Endpoint of Ray 2.60: ``/api/local_raylet_healthz`` on the agent's
port, by default 52365; override it with ``RAY_AGENT_PORT``.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_SECONDS = 5.0


def healthy(host: str = "127.0.0.1", port: int = 52365) -> bool:
    """Whether the node's agent responds and reports a healthy raylet."""
    request = urllib.request.Request(
        f"http://{host}:{port}/api/local_raylet_healthz", headers=_token_header()
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            return b"success" in response.read()
    except (OSError, urllib.error.URLError):
        return False


def _token_header() -> dict[str, str]:
    token = os.environ.get("RAY_AUTH_TOKEN")
    if not token and (path := os.environ.get("RAY_AUTH_TOKEN_PATH")):
        token = Path(path).read_text(encoding="utf-8")
    return {"Authorization": f"Bearer {token.strip()}"} if token else {}


def main() -> int:
    """Probe the agent that the environment names."""
    host = os.environ.get("RAY_AGENT_HOST", "127.0.0.1")
    port = int(os.environ.get("RAY_AGENT_PORT", "52365"))
    return 0 if healthy(host, port) else 1


if __name__ == "__main__":
    sys.exit(main())
