"""The MLflow server of the hosts: PostgreSQL, an S3 server, a login and allowed hosts, at the
bridge."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

from hosts import CLIENT
from ray_hosts import clean_environment

PORT = 5000
USER = "admin"


class MlflowServer:
    """The server, which can be stopped and started again; its data stay."""

    address = f"{CLIENT}:{PORT}"

    def __init__(self, password: str) -> None:
        self.settings = {  # of its clients
            "MLFLOW_TRACKING_URI": f"http://{self.address}",
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": password,
        }
        self.away, self._stopped = 0.0, time.monotonic()
        """Seconds between the latest stop and the start that followed."""
        self._keeper = subprocess.Popen(
            [Path(__file__).with_name("mlflow.sh"), CLIENT, str(PORT)], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**clean_environment(), "MLFLOW_TRACKING_PASSWORD": password},
        )  # fmt: skip

    def start(self) -> None:
        """Return when it answers."""
        self._order("start")
        self.away = time.monotonic() - self._stopped

    def stop(self) -> None:
        """Return when it is gone."""
        self._order("stop")
        self._stopped = time.monotonic()

    def end(self) -> None:
        """Take down all of it."""
        self._keeper.communicate()

    def answer(self, password: str | None, host: str = address) -> int:
        """The HTTP status for whoever asks with a password, or none, and calls the server by a
        name."""
        login = (
            {}
            if password is None
            else {"Authorization": f"Basic {b64encode(f'{USER}:{password}'.encode()).decode()}"}
        )
        request = urllib.request.Request(
            f"http://{self.address}/api/2.0/mlflow/experiments/search?max_results=9",
            headers={"Host": host, **login},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            exc.close()
            return exc.code

    def _order(self, word: str) -> None:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write(f"{word}\n")
        self._keeper.stdin.flush()
        assert self._keeper.stdout.readline() == f"{word}\n", "the server's own words are above"
