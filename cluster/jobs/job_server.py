"""The job server of a Ray cluster: its address, the token it wants, and plain questions to it.

REST interface of Ray jobs and of the state API, Ray 2.60: ``/api/version``, ``/api/jobs/``,
``/api/v0/nodes``.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from corrfractal.common.errors import CallError, CorrFractalError

ANSWER_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Node:
    """A living machine of the cluster: its address, and what Ray may hand out of it."""

    address: str
    head: bool
    resources: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A submitted job: ``PENDING``, ``RUNNING``, ``STOPPED``, ``SUCCEEDED`` or ``FAILED``."""

    id: str
    status: str
    entrypoint: str


@dataclass(frozen=True, kw_only=True)
class JobServer:
    """Where a cluster takes jobs, ``http://host:port``, and the token that it asks for."""

    url: str
    token: str | None = field(repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise CallError(
                f"the address of a job server looks like http://127.0.0.1:8265, got {self.url!r}"
            )

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries the token."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def get(self, path: str) -> Any:
        """The JSON answer to a GET request.

        Raises:
            CallError: the token is missing or wrong.
            CorrFractalError: nobody answers there, or not a Ray job server.
        """
        request = urllib.request.Request(self.url.rstrip("/") + path, headers=self.headers)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as exc:
            exc.close()
            raise self._refusal(exc.code) from exc
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "reason", exc)
            raise CorrFractalError(
                f"no Ray job server answers at {self.url} ({reason}); is the cluster up?"
            ) from exc

    def nodes(self) -> list[Node]:
        """The living machines of the cluster. Raises as ``get``."""
        answer = self.get("/api/v0/nodes?detail=1")["data"]["result"]["result"]
        return [
            Node(
                address=node["node_ip"],
                head=bool(node["is_head_node"]),
                resources=dict(node["resources_total"]),
            )
            for node in answer
            if node["state"] == "ALIVE"
        ]

    def jobs(self) -> list[Job]:
        """The jobs submitted to the cluster, oldest first. Raises as ``get``."""
        submitted = [job for job in self.get("/api/jobs/") if job["submission_id"]]
        submitted.sort(key=lambda job: job["start_time"] or 0)
        return [
            Job(id=job["submission_id"], status=job["status"], entrypoint=job["entrypoint"])
            for job in submitted
        ]

    def _refusal(self, status: int) -> CorrFractalError:
        if status in (401, 403):
            what = "refuses this token" if self.token else "asks for a token"
            return CallError(
                f"the cluster at {self.url} {what}; name the file that holds it with --token-file"
            )
        return CorrFractalError(
            f"{self.url} answers with HTTP status {status}; is it a Ray job server?"
        )
