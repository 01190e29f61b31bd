"""Jobs on any Ray cluster, local or not: submit and follow.

A job is a command line that Ray runs on the cluster's head. The configuration file must lie there
under the same path (always so on a local cluster; a shared file system elsewhere), and this project
must be installed there.
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

from . import local_cluster as local
from .job_server import JobServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray.job_submission import JobSubmissionClient

DEFAULT_URL = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def find_server(address: str | None, state: Path, token_file: Path | None) -> JobServer:
    """The job server that is meant, and its token.

    Address: ``address``, else ``RAY_API_SERVER_ADDRESS``, else the cluster recorded in ``state``,
    else port 8265 here. Token: ``token_file``, else the token in ``state`` if its cluster is the
    one that is meant, else ``RAY_AUTH_TOKEN``, else the file ``RAY_AUTH_TOKEN_PATH``.

    Raises:
        NotFoundError: a named token file is missing or empty.
        CallError: the address is not a URL.
    """
    cluster = local.read(state)
    here = cluster.dashboard if cluster else DEFAULT_URL
    url = (address or os.environ.get("RAY_API_SERVER_ADDRESS") or here).rstrip("/")
    own = state / "token" if cluster and url == cluster.dashboard else None
    return JobServer(url=url, token=_find_token(token_file, own))


def entrypoint(config: Path) -> str:
    """The shell line that runs the whole workflow on a configuration file, from the folder where it
    lies.

    Raises:
        NotFoundError: no such file.
    """
    if not config.is_file():
        raise NotFoundError(f"no such configuration file: {config}")
    config = config.resolve()
    # -P: nothing of the folder that is entered is imported
    command = shlex.join([sys.executable, "-P", "-m", "corrfractal", "run", config.name])
    return f"cd {shlex.quote(str(config.parent))} && exec {command}"


def submit(server: JobServer, line: str) -> str:
    """Submit a shell line as a job and return the job's id.

    Raises:
        CallError, CorrFractalError: as ``JobServer.get``; or the cluster refuses the job.
    """
    with _client(server) as client:
        try:
            return str(client.submit_job(entrypoint=line))
        except RuntimeError as exc:
            raise CorrFractalError(
                f"{server.url} did not take the job: {str(exc).splitlines()[0]}"
            ) from exc


def follow(server: JobServer, job: str, show: Callable[[str], None]) -> None:
    """Hand the job's output to ``show``, line by line, until it ends.

    Raises:
        CorrFractalError: the job failed or was stopped, or the connection broke; the job itself
        then continues.
    """
    with _client(server) as client:
        try:
            asyncio.run(_tail(client, job, show))
            info = client.get_job_info(job)
        except KeyboardInterrupt as exc:
            raise CorrFractalError(
                f"no longer following job {job}, which continues; see `corrfractal cluster status`"
            ) from exc
        except (RuntimeError, OSError) as exc:
            raise CorrFractalError(
                f"lost the connection to {server.url}; job {job} may go on: {exc}"
            ) from exc
    if str(info.status) != "SUCCEEDED":
        reason = str(info.message or "no reason given").split(", last available logs")[0]
        raise CorrFractalError(f"job {job} ended as {info.status}: {reason}")


def _find_token(named: Path | None, own: Path | None) -> str | None:
    path = named or own
    if path is None and os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    if path is None and os.environ.get("RAY_AUTH_TOKEN_PATH"):
        path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise NotFoundError(f"the token file {path} cannot be read: {exc}") from exc
    if not token:
        raise NotFoundError(f"the token file {path} is empty")
    return token


@contextmanager
def _client(server: JobServer) -> Iterator[JobSubmissionClient]:
    """Ray's client for this server and no other: Ray prefers an address from the environment to the
    one it is given."""
    server.get("/api/version")  # one plain sentence where Ray's client would show a traceback
    from ray.job_submission import JobSubmissionClient

    limit_libraries()
    kept = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        yield JobSubmissionClient(server.url, headers=server.headers)
    finally:
        os.environ.update(kept)


async def _tail(client: Any, job: str, show: Callable[[str], None]) -> None:
    async for chunk in client.tail_job_logs(job):
        for line in chunk.splitlines():
            show(line)
