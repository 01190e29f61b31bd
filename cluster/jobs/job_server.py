"""Client of the job server of a Ray cluster: its address, its token, and read-only requests.

Endpoints of Ray's REST interface for jobs and of its state API, as of Ray 2.60: ``/api/version``,
``/api/jobs/``, ``/api/v0/nodes``.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from corrfractal.common.errors import CallError, CorrFractalError

REQUEST_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Node:
    """A live node of the cluster."""

    address: str
    head: bool
    resources: dict[str, float]
    """Total resources that Ray schedules, such as ``CPU`` and ``GPU``."""


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """A job that was submitted to the cluster."""

    id: str
    status: str
    """``PENDING``, ``RUNNING``, ``STOPPED``, ``SUCCEEDED`` or ``FAILED``."""
    entrypoint: str
    """Shell command that runs on the head."""


@dataclass(frozen=True, kw_only=True)
class JobServer:
    """A job server.

    Raises:
        CallError: ``url`` is not an HTTP URL.
    """

    url: str
    """``http://host:port``"""
    token: str | None = field(repr=False)
    """Token of the cluster; None: the cluster has no authentication."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise CallError(
                "the address of a job server must be a URL such as http://127.0.0.1:8265, "
                f"got {self.url!r}"
            )

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries the token."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def get(self, path: str) -> Any:
        """Send a GET request and return the parsed JSON response.

        Raises:
            CallError: the token is missing or wrong.
            CorrFractalError: no server at this address, or not a Ray job server.
        """
        request = urllib.request.Request(self.url.rstrip("/") + path, headers=self.headers)
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as exc:
            exc.close()
            raise self._error_of_status(exc.code) from exc
        # ValueError: the response is not JSON.
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "reason", exc)
            raise CorrFractalError(
                f"no Ray job server answers at {self.url} ({reason}); is the cluster up?"
            ) from exc

    def nodes(self) -> list[Node]:
        """The live nodes of the cluster. Raises the errors of ``get``."""
        response = self.get("/api/v0/nodes?detail=1")
        return [
            Node(
                address=node["node_ip"],
                head=bool(node["is_head_node"]),
                resources=dict(node["resources_total"]),
            )
            for node in response["data"]["result"]["result"]
            if node["state"] == "ALIVE"
        ]

    def jobs(self) -> list[SubmittedJob]:
        """The jobs submitted to the cluster, oldest first. Raises the errors of ``get``."""
        # Drivers that were started without the job server have no submission id.
        submitted = [job for job in self.get("/api/jobs/") if job["submission_id"]]
        submitted.sort(key=lambda job: job["start_time"] or 0)
        return [
            SubmittedJob(
                id=job["submission_id"], status=job["status"], entrypoint=job["entrypoint"]
            )
            for job in submitted
        ]

    def _error_of_status(self, status: int) -> CorrFractalError:
        if status in (401, 403):
            problem = "refuses this token" if self.token else "requires a token"
            return CallError(
                f"the cluster at {self.url} {problem}; pass the file that holds it with "
                "--token-file"
            )
        return CorrFractalError(
            f"{self.url} responds with HTTP status {status}; is it a Ray job server?"
        )
