"""Submit jobs to any Ray cluster, and follow their output.

A job is a shell command that Ray runs on the head. The head must have this project installed, and
see the configuration file under the same path: on a remote cluster, put it on a shared file system.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrfractal.common.errors import CorrFractalError, NotFoundError
from corrfractal.common.logs import limit_libraries

from . import local_cluster
from .job_server import JobServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray.job_submission import JobSubmissionClient

DEFAULT_URL = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def find_server(address: str | None, state: Path, token_file: Path | None) -> JobServer:
    """Find the job server and its token.

    Address: ``address``, or the variable ``RAY_API_SERVER_ADDRESS``, or the cluster recorded in
    ``state``, or port 8265 of this machine.
    Token: ``token_file``, or the token in ``state`` if the address is that cluster's, or the
    variable ``RAY_AUTH_TOKEN``, or the file that ``RAY_AUTH_TOKEN_PATH`` names.

    Raises:
        NotFoundError: a named token file is missing or empty.
        CallError: the address is not a URL.
    """
    cluster = local_cluster.read(state)
    default = cluster.dashboard if cluster else DEFAULT_URL
    url = (address or os.environ.get("RAY_API_SERVER_ADDRESS") or default).rstrip("/")
    # The token of the local cluster is never sent to another server.
    if token_file is None and cluster is not None and url == cluster.dashboard:
        token_file = state / "token"
    return JobServer(url=url, token=_read_token(token_file))


def entrypoint(config: Path, settings: tuple[str, ...] = ()) -> str:
    """The shell command that runs a workflow, from the folder of its configuration file.

    Args:
        config: the file.
        settings: ``KEY=VALUE`` texts that override its fields.

    Raises:
        NotFoundError: no such file.
    """
    if not config.is_file():
        raise NotFoundError(f"no such configuration file: {config}")
    config = config.resolve()
    # -P: import nothing from that folder.
    words = [sys.executable, "-P", "-m", "corrfractal", "run", config.name]
    for setting in settings:
        words += ["--set", setting]
    return f"cd {shlex.quote(str(config.parent))} && exec {shlex.join(words)}"


def submit(server: JobServer, line: str) -> str:
    """Submit a shell command as a job and return the job's id.

    Raises:
        CallError, CorrFractalError: the errors of ``JobServer.get``, or the cluster refuses the
            job.
    """
    with _client(server) as client:
        try:
            return str(client.submit_job(entrypoint=line))
        except RuntimeError as exc:
            raise CorrFractalError(
                f"{server.url} refused the job: {str(exc).splitlines()[0]}"
            ) from exc


def follow(server: JobServer, job: str, show: Callable[[str], None]) -> None:
    """Pass the output of a job to ``show``, line by line, until the job ends.

    Raises:
        CorrFractalError: the job failed or was stopped. Or the connection broke, or Ctrl-C was
            pressed; then the job continues.
    """
    with _client(server) as client:
        try:
            asyncio.run(_tail(client, job, show))
            info = client.get_job_info(job)
        except KeyboardInterrupt as exc:
            raise CorrFractalError(
                f"stopped following job {job}, which continues; see `corrfractal cluster status`"
            ) from exc
        except (RuntimeError, OSError) as exc:
            raise CorrFractalError(
                f"lost the connection to {server.url}; job {job} may still be running: {exc}"
            ) from exc
    if str(info.status) != "SUCCEEDED":
        # Ray appends the last lines of the log, which were shown already.
        reason = str(info.message or "no reason given").split(", last available logs")[0]
        raise CorrFractalError(f"job {job} ended as {info.status}: {reason}")


def _read_token(path: Path | None) -> str | None:
    """The token in a file; without a file, the token that Ray's variables name, if any."""
    if path is None:
        token = os.environ.get("RAY_AUTH_TOKEN")
        if token:
            return token.strip()
        token_path = os.environ.get("RAY_AUTH_TOKEN_PATH")
        if not token_path:
            return None
        path = Path(token_path)
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise NotFoundError(f"the token file {path} cannot be read: {exc}") from exc
    if not token:
        raise NotFoundError(f"the token file {path} is empty")
    return token


@contextmanager
def _client(server: JobServer) -> Iterator[JobSubmissionClient]:
    """Ray's client for this server."""
    # Raises a readable error where Ray's client would raise a traceback.
    server.get("/api/version")
    from ray.job_submission import JobSubmissionClient

    limit_libraries()
    # Ray's client prefers an address of the environment to its argument, so hide those.
    hidden = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        yield JobSubmissionClient(server.url, headers=server.headers)
    finally:
        os.environ.update(hidden)


async def _tail(client: Any, job: str, show: Callable[[str], None]) -> None:
    async for chunk in client.tail_job_logs(job):
        for line in chunk.splitlines():
            show(line)
