"""Bytes that a build reads from an object store, counted by the server.

The store is moto's server of the S3 protocol on loopback. Driver and tasks state different names in
their user agents, so that the server can tell who asks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

BUCKET = "bucket"
# What botocore adds to the user agent, from this variable.
NAME_VARIABLE = "AWS_SDK_UA_APP_ID"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class CountingApp:
    """A WSGI application that counts the bytes of the bodies which another one sends.

    Attributes:
        sent: bytes by (who asked, what was read), see ``what``.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.sent: Counter[tuple[str, str]] = Counter()
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        agent = environ.get("HTTP_USER_AGENT", "")
        who = "driver" if "app/driver" in agent else "tasks" if "app/tasks" in agent else "other"
        key = (who, what(environ["PATH_INFO"]))
        counted = environ["REQUEST_METHOD"] == "GET"
        for block in self._app(environ, start_response):
            if counted:
                with self._lock:
                    self.sent[key] += len(block)
            yield block

    def take(self) -> Counter[tuple[str, str]]:
        """The counts since the last call."""
        with self._lock:
            taken = self.sent
            self.sent = Counter()
        return taken


def what(path: str) -> str:
    """Sources, shards, metadata (sidecars, index, state) or listings, by the path of a request."""
    _, _, key = path.lstrip("/").partition("/")
    if not key:
        return "listings"
    if key.startswith("videos/"):
        return "sources"
    return "shards" if key.endswith(".tar") else "metadata"


@contextmanager
def counting_store() -> Iterator[tuple[CountingApp, str]]:
    """A store with an empty bucket: what it counts, and its address. Clients find it through the
    environment."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app = CountingApp(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.port}"
    try:
        with patch.dict(os.environ, CREDENTIALS, AWS_ENDPOINT_URL=address):
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            yield app, address
    finally:
        server.shutdown()
        thread.join()


def measure_bytes(videos: Path) -> dict[str, Any]:
    """Bytes read by a build of all files of a folder, and by a second one with nothing to do.

    Returns:
        ``source_bytes`` and ``shard_bytes`` of the data, and for ``first`` and ``second`` the bytes
        read by (who, what) and the number of shards made.
    """
    import boto3
    from ray.cluster_utils import Cluster

    files = sorted(path for path in videos.iterdir() if path.is_file())
    with counting_store() as (app, _):
        client = boto3.client("s3")
        for file in files:
            client.upload_file(str(file), BUCKET, f"videos/{file.name}")
        # Workers inherit the environment of their node.
        os.environ[NAME_VARIABLE] = "tasks"
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        try:
            found: dict[str, Any] = {"files": len(files)}
            app.take()
            for build in ("first", "second"):
                report = _build(str(cluster.address))
                reads = {f"{who} {kind}": count for (who, kind), count in app.take().items()}
                found[build] = {"made": report["made"], "read": reads}
        finally:
            cluster.shutdown()
            del os.environ[NAME_VARIABLE]
        found["source_bytes"] = sum(file.stat().st_size for file in files)
        found["shard_bytes"] = sum(
            item["Size"]
            for item in client.list_objects_v2(Bucket=BUCKET, Prefix="shards/")["Contents"]
            if item["Key"].endswith(".tar")
        )
    return found


def _build(address: str) -> dict[str, Any]:
    """``corrfractal precompute`` on a cluster, with the report that it prints."""
    command = [sys.executable, "-m", "corrfractal", "precompute", f"s3://{BUCKET}/videos"]
    command += ["--out", f"s3://{BUCKET}/shards", "--json"]
    environment = {**os.environ, "RAY_ADDRESS": address, NAME_VARIABLE: "driver"}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    report: dict[str, Any] = json.loads(ended.stdout)
    return report
