"""The registry with 10, 100 and 1000 versions: listing, looking up, promoting.

    python benchmarks/registry.py [--counts 10,100,1000] [--json]

One version is registered by the product, with a network, a run, metrics, scores and descriptions;
the others are copies of its rows in the store's database, each with a run of its own. Each
operation runs on the SQLite file itself and through a real MLflow server on loopback, with its HTTP
requests counted. The baseline lists with two requests for each version, its record and its run.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import click
import mlflow
from measure import print_table
from requests.adapters import HTTPAdapter
from synthetic_shards import write_shards

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.common.config import config_to_dict, flatten
from corrfractal.files.atomic import file_sha256
from corrfractal.registry.names import CHAMPION, PROJECT
from corrfractal.registry.promotion import promote
from corrfractal.registry.registration import register
from corrfractal.registry.score_log import log_scores
from corrfractal.registry.scores import Scores
from corrfractal.registry.versions import find_version, list_models
from inference import SERVING_FILE
from training.config import configuration
from training.state.run_log import start_run

SET = "davis2017-val"
REPEATS = 3
BASELINE_LIMIT = 100
"""The baseline is measured up to so many versions: it takes minutes for more."""
OF_A_RUN = ("params", "metrics", "latest_metrics", "tags")


@click.command()
@click.option("--counts", default="10,100,1000", show_default=True, help="Numbers of versions.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(counts: str, as_json: bool) -> None:
    """Print a row per operation, store and number of versions."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = folder / "mlflow.db"
        register_one(folder, f"sqlite:///{file}")
        for count in map(int, counts.split(",")):
            copy_versions(file, count)
            rows += measure_store("sqlite", f"sqlite:///{file}", count)
            with mlflow_server(file) as address:
                rows += measure_store("server", address, count)
    if as_json:
        print(json.dumps({"rows": rows}))
    else:
        print_table("registry: seconds and requests by number of versions", rows)


def register_one(folder: Path, uri: str) -> None:
    """A version as training and evaluation leave it, of an untrained network."""
    shards = folder / "shards"
    shards.mkdir()
    digest = write_shards(shards, [4, 4], side=32, frames=8).digest
    params = flatten(config_to_dict(configuration("base", "cpu")))
    run_id = start_run(uri, "first", params, shards, digest)
    for step in range(10):
        values = {f"metric_{number}": 0.5 for number in range(20)}
        mlflow.MlflowClient().log_batch(
            run_id,
            metrics=[
                mlflow.entities.Metric(name, value, step, step) for name, value in values.items()
            ],
        )
    weights = folder / "run" / "model.safetensors"
    CorrFractal(CorrFractalConfig(width=4, embedding_channels=8)).save(weights)
    register(weights, run_id, uri, digest, serving_file=SERVING_FILE)
    scores = Scores(
        dataset=SET,
        set_digest="a" * 64,
        settings="b" * 64,
        weights=file_sha256(weights),
        sequences=30,
        objects=61,
        J=0.5,
        F=0.5,
        at="2026-01-01T00:00:00+00:00",
    )
    log_scores(run_id, (PROJECT, "1"), scores, {})


def copy_versions(file: Path, count: int) -> None:
    """Copy the rows of version 1 until there are ``count`` versions."""
    with closing(sqlite3.connect(file)) as base, base:
        (existing,) = base.execute("SELECT count(*) FROM model_versions").fetchone()
        (first,) = base.execute("SELECT run_id FROM model_versions WHERE version = 1").fetchone()
        for number in range(existing + 1, count + 1):
            run_id = f"{number:032x}"
            _copy_rows(base, "runs", {"run_uuid": first}, {"run_uuid": run_id})
            for table in OF_A_RUN:
                _copy_rows(base, table, {"run_uuid": first}, {"run_uuid": run_id})
            version = {"version": number}
            _copy_rows(base, "model_versions", {"version": 1}, {**version, "run_id": run_id})
            _copy_rows(base, "model_version_tags", {"version": 1}, version)


def _copy_rows(
    base: sqlite3.Connection, table: str, where: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Copy the rows of a table that have some values, with other values in some columns."""
    columns = [row[1] for row in base.execute(f"PRAGMA table_info({table})")]
    chosen = ", ".join("?" if column in changes else column for column in columns)
    values = [changes[column] for column in columns if column in changes]
    condition = " AND ".join(f"{column} = ?" for column in where)
    base.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen} FROM {table} "
        f"WHERE {condition}",
        [*values, *where.values()],
    )


def measure_store(kind: str, uri: str, count: int) -> list[dict[str, Any]]:
    """A row per operation on a store with ``count`` versions."""
    mlflow.set_tracking_uri(uri)
    assert len(list_models(uri)) == count
    newest = [count, count - 1]

    def promote_other() -> None:
        # In turns, so that every call moves the alias.
        promote(str(newest[0]), uri, dataset=SET)
        newest.reverse()

    operations: dict[str, Callable[[], object]] = {
        "list": lambda: list_models(uri, metrics=False),
        "list --json": lambda: list_models(uri),
        "show": lambda: find_version(str(count // 2), uri),
        "promote": promote_other,
    }
    if count <= BASELINE_LIMIT:
        operations["list, two requests per version"] = lambda: list_one_by_one(count)

    client = mlflow.MlflowClient()
    if CHAMPION in client.get_registered_model(PROJECT).aliases:
        client.delete_registered_model_alias(PROJECT, CHAMPION)
    rows = []
    for name, work in operations.items():
        work()
        with counted_requests() as sent:
            seconds = [_seconds(work) for _ in range(REPEATS)]
        row = {"store": kind, "versions": count, "operation": name}
        row["seconds"] = round(statistics.median(seconds), 3)
        row["requests"] = len(sent) // REPEATS if kind == "server" else ""
        rows.append(row)
        print(*row.values(), file=sys.stderr)
    return rows


def list_one_by_one(count: int) -> None:
    """The baseline: a request for each version, and one for its run."""
    client = mlflow.MlflowClient()
    for number in range(1, count + 1):
        client.get_run(client.get_model_version(PROJECT, str(number)).run_id)


@contextmanager
def counted_requests() -> Iterator[list[str]]:
    """The paths of all HTTP requests of MLflow's client within the block."""
    sent: list[str] = []
    send = HTTPAdapter.send

    def record(adapter: HTTPAdapter, request: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(request.path_url)
        return send(adapter, request, *arguments, **options)

    with mock.patch.object(HTTPAdapter, "send", record):
        yield sent


@contextmanager
def mlflow_server(file: Path) -> Iterator[str]:
    """A real MLflow server of one process on loopback, for a store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{file}"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (file.parent / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            if server.poll() is not None:
                raise click.ClickException((file.parent / "server.log").read_text())
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
