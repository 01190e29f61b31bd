"""The MLflow store and the working directory: odd names, moves, concurrent use, damage.

One real store is made for all tests, with shards, a run and a registered model, by this project's
own functions. Tests copy or move it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
import pytest
import sqlalchemy
from click.testing import CliRunner, Result

from cluster.demo.render import render_evaluation_set
from cluster.doctor import checks as doctor
from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.__main__ import main
from corrfractal.common.config import config_to_dict
from corrfractal.common.errors import CallError, CorrFractalError, IntegrityError, NotFoundError
from corrfractal.registry.connection import open_experiment, open_store
from corrfractal.registry.lineage import Lineage
from corrfractal.registry.mlflow_errors import store_error
from corrfractal.registry.provenance import _log_data_set
from corrfractal.registry.registration import register
from corrfractal.registry.score_log import log_scores
from corrfractal.registry.scores import Scores
from corrfractal.registry.store import (
    availability,
    check_store,
    local_file,
    sqlite_store,
    sqlite_uri,
    tracking_uri,
)
from corrfractal.registry.store.addresses import sqlite_file
from corrfractal.registry.store.sqlite_store import mlflow_revisions, store_lock
from corrfractal.registry.versions import list_models
from corrfractal.shards.clip import SCHEMA
from corrfractal.shards.index import CLIP_SCHEMA, SHARD_SCHEMA, SOURCE_SCHEMA, write_index
from corrfractal.shards.manifest import LabelStatistics, Manifest, Statistics, seal, to_text
from inference import SERVING_FILE
from inference.benchmarks.davis import Davis
from inference.evaluate import evaluate_davis
from inference.load import resolve_model
from training.config import configuration
from training.job import TrainingJob
from training.state.metrics_file import MetricLine, MetricsFile
from training.state.run_log import start_run
from training.state.run_store import store_of_run
from training.state.uploader import Uploader

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

EMPTY = dict.fromkeys(
    ("samples", "frames", "bytes", "sources", "sampled", "quarantined", "rejected"), 0
)
ODD = [
    "w?x",
    "p%41q",
    "a#b",
    "two words",
    "%",
    "ü-名",
    "it's",
    '"',
    "&",
    ";",
    "a=b&c",
    "new\nline",
    "a@b:c",
    "x://y",
]
ALL_ODD = "w?x p%41q#ü&;'\"="


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test names a store by default, and MLflow's store is reset after each."""
    before = mlflow.get_tracking_uri()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``mlflow.db``, ``mlartifacts``, shards and the folder of a registered run."""
    folder = tmp_path_factory.mktemp("made") / "project"
    run = folder / "runs" / "first"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "step-00000004.pt").write_bytes(b"weights")
    (run / "checkpoints" / "step-00000004.json").write_text('{"step": 4, "sha256": "unlike"}')
    (folder / "shards").mkdir()
    statistics = Statistics(**EMPTY, cuts=0, static=0, labels=LabelStatistics())
    manifest = seal(
        Manifest(
            schema=SCHEMA,
            config={},
            config_digest="a",
            versions={},
            shards_digest="0" * 64,
            sources_digest="0" * 64,
            statistics=statistics,
            index=write_index(
                folder / "shards",
                SHARD_SCHEMA.empty_table(),
                CLIP_SCHEMA.empty_table(),
                SOURCE_SCHEMA.empty_table(),
            ),
        )
    )
    (folder / "shards" / "manifest.json").write_text(to_text(manifest))
    CorrFractal(CorrFractalConfig(width=4, embedding_channels=4)).save(run / "model.safetensors")
    uri = sqlite_uri(folder / "mlflow.db")
    run_id = start_run(uri, "first", {"steps": 4}, folder / "shards", manifest.digest)
    register(run / "model.safetensors", run_id, uri, manifest.digest, serving_file=SERVING_FILE)
    job = TrainingJob(
        shards=str(folder / "shards"),
        shards_digest=manifest.digest,
        out=str(run),
        total=4,
        config=configuration("base", "cpu"),
        tracking_uri=uri,
        run_id=run_id,
    )
    (run / "job.json").write_text(json.dumps(config_to_dict(job)))
    return folder


@pytest.fixture
def held(project: Path) -> TrainingJob:
    """The job of the run, as stored in its folder."""
    values = json.loads((project / "runs" / "first" / "job.json").read_text())
    return TrainingJob(**{**values, "config": configuration("base", "cpu")})


@pytest.fixture
def copy(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project that a test may damage; it is the working directory."""
    folder = tmp_path / "copy"
    shutil.copytree(project, folder)
    monkeypatch.chdir(folder)
    return folder


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def artifacts_of(run_id: str) -> Path:
    """Where MLflow writes artefacts of a run."""
    return Path(unquote(urlsplit(mlflow.MlflowClient().get_run(run_id).info.artifact_uri).path))


def assert_one_sentence(result: Result, exit_code: int, *parts: str) -> None:
    said = result.output.strip().splitlines()
    assert result.exit_code == exit_code, result.output
    assert len(said) == 1, result.output
    assert said[0].startswith("error: ")
    assert "unexpected" not in said[0]
    for part in parts:
        assert part in said[0]


# Names


@pytest.mark.parametrize("name", ODD)
def test_sqlalchemy_finds_the_file_of_a_uri_whatever_its_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / name / "mlflow.db"
    uri = sqlite_uri(file)
    assert sqlite_file(uri) == file
    assert tracking_uri(uri) == uri
    file.parent.mkdir(parents=True)
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (x)"))
    engine.dispose()
    assert file.is_file()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_an_ordinary_uri_stays_as_mlflow_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("http://ann:pw@host/x?y=1") == "http://ann:pw@host/x?y=1"


def test_in_a_folder_of_any_name_a_store_is_made_there_and_its_model_found(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: TrainingJob
) -> None:
    folder = tmp_path / ALL_ODD
    shutil.copytree(project / "shards", folder / "shards")
    shutil.copytree(project / "runs", folder / "runs")
    monkeypatch.chdir(folder)
    run_id = start_run(tracking_uri(), "second", {}, folder / "shards", held.shards_digest)
    version = register(
        folder / "runs" / "first" / "model.safetensors",
        run_id,
        tracking_uri(),
        held.shards_digest,
        serving_file=SERVING_FILE,
    )

    assert [path.name for path in tmp_path.iterdir()] == [ALL_ODD]
    assert sorted(path.name for path in folder.iterdir()) == [
        "mlartifacts",
        "mlflow.db",
        "runs",
        "shards",
    ]
    found = resolve_model(None)
    assert (found.name, found.run_id) == (version.uri, run_id)
    assert found.path is not None
    assert found.path.is_relative_to(folder)
    assert doctor.check_tracking().level == "ok"
    assert call("models", "list").exit_code == 0
    assert call("lineage", "1").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == [ALL_ODD]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:////data/w?x/mlflow.db", "'?' is written %3F"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://", "names no file"),
        ("./mlruns", "plain file or folder"),
        ("file:///data/mlruns", "plain file or folder"),
        ("http://", "names no host"),
        ("http://[::1", "cannot read"),
        ("http://host:port", "cannot read"),
    ],
)
def test_what_cannot_be_a_store_is_refused_by_every_command_and_by_doctor(
    uri: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(call("models", "list", "--tracking-uri", uri), 2, said)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(CallError, match=said.replace("?", r"\?")):
        resolve_model("models:/corrfractal/1")
    finding = doctor.check_tracking()
    assert finding.level == "fault"
    assert said in finding.found
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_name_is_not_utf8_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert_one_sentence(call("models", "list"), 2, "not UTF-8")
    assert doctor.check_tracking().level == "fault"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["a'b/1", 'a"b/1', "a'b\"c/1", "x%/1", "a\\/1", "`/1", "corrfractal/7", "ü;--@x"]
)
def test_names_of_models_are_quoted_in_searches(
    name: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    assert_one_sentence(call("models", "show", name), 2, "no model")


# Moves


def test_a_moved_project_finds_its_models_and_writes_to_the_new_place(
    copy: Path, tmp_path: Path, held: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_models(tracking_uri())  # updates the locations of the copy
    moved = tmp_path / "moved & renamed"
    copy.rename(moved)
    monkeypatch.chdir(moved)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow has set it
    assert "moved or copied" in doctor.check_tracking().found
    found = resolve_model(None)
    assert found.path is not None
    assert found.path.is_relative_to(moved)
    assert doctor.check_tracking().level == "ok"

    origin = Lineage(tracking_uri()).of_model("1")
    assert Path(origin.checkpoint.path).is_relative_to(moved)
    assert origin.data is not None
    run_id = start_run(tracking_uri(), "second", {}, moved / "shards", held.shards_digest)
    assert artifacts_of(run_id).is_relative_to(moved)
    assert artifacts_of(held.run_id) == moved / "mlartifacts" / held.run_id / "artifacts"
    assert not copy.exists()


def test_a_copied_project_leaves_the_original_alone(
    project: Path, copy: Path, held: TrainingJob
) -> None:
    before = files(project)
    found = resolve_model(None)
    assert found.path is not None
    assert found.path.is_relative_to(copy)
    start_run(tracking_uri(), "second", {}, copy / "shards", held.shards_digest)
    assert artifacts_of(held.run_id).is_relative_to(copy)
    assert files(project) == before


def test_a_copied_database_alone_reads_the_old_artefacts_and_writes_new_ones_beside_itself(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    held: TrainingJob,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(project / "mlflow.db", tmp_path)
    before = files(project)
    for _ in range(2):
        found = resolve_model(None)
        assert found.path is not None
        assert found.path.is_relative_to(project)
    assert capsys.readouterr().out.count("locations were updated") == 1
    start_run(tracking_uri(), "second", {}, project / "shards", held.shards_digest)
    assert (tmp_path / "mlartifacts").is_dir()
    assert files(project) == before


def test_artefacts_that_were_put_elsewhere_on_purpose_stay_there(
    copy: Path, tmp_path: Path
) -> None:
    """A store of an earlier version, without the tag, whose experiment has a folder of its own."""
    elsewhere = (tmp_path / "nas" / "artefacts").as_uri()
    with contextlib.closing(sqlite3.connect("mlflow.db")) as base, base:
        base.execute("DELETE FROM experiment_tags")
        base.execute("UPDATE experiments SET artifact_location = ?", (elsewhere,))
    open_store(tracking_uri(), write=True)
    assert mlflow.get_experiment_by_name("corrfractal").artifact_location == elsewhere


def test_a_store_of_an_earlier_version_is_updated_too(copy: Path) -> None:
    with contextlib.closing(sqlite3.connect("mlflow.db")) as base, base:
        base.execute("DELETE FROM experiment_tags")
    found = resolve_model(None)
    assert found.path is not None
    assert found.path.is_relative_to(copy)


# Other folders


def test_a_run_is_resumed_in_its_own_store_from_any_folder(
    project: Path, held: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = project / "runs" / "first"
    assert store_of_run(held, run, None) == held.tracking_uri
    assert store_of_run(held, run, held.tracking_uri) == held.tracking_uri
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_moved_or_copied_with_its_store_uses_that_one(
    project: Path, copy: Path, held: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_file(store_of_run(held, copy / "runs" / "first", None)) == copy / "mlflow.db"
    gone = replace(
        held,
        tracking_uri=sqlite_uri(tmp_path / "gone" / "mlflow.db"),
        out=str(tmp_path / "gone" / "run"),
    )
    assert local_file(store_of_run(gone, copy / "first", None)) == copy / "mlflow.db"
    monkeypatch.chdir(project)
    assert local_file(store_of_run(gone, tmp_path / "run", None)) == project / "mlflow.db"


def test_another_store_than_the_run_has_is_refused_in_one_sentence(
    project: Path, held: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = project / "runs" / "first"
    with pytest.raises(
        CallError, match=r"recorded in the MLflow store .*, not in sqlite:///.*/other\.db: name"
    ):
        store_of_run(held, run, sqlite_uri(tmp_path / "other.db"))
    gone = replace(held, tracking_uri=sqlite_uri(tmp_path / "gone.db"))
    with pytest.raises(
        CallError, match=r"gone\.db, and that file does not exist: name its present place"
    ):
        store_of_run(gone, tmp_path / "run", None)
    other = replace(held, run_id="0" * 32)
    with pytest.raises(CallError, match=r"mlflow\.db, and that store no longer holds it"):
        store_of_run(other, run, None)
    hidden = replace(held, tracking_uri="http://ann:***@host")
    with pytest.raises(CallError, match="set MLFLOW_TRACKING_URI to it, with its password"):
        store_of_run(hidden, run, None)
    assert store_of_run(hidden, run, "http://ann:pw@host") == "http://ann:pw@host"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [("models", "list"), ("models", "show", "1"), ("models", "history"), ("models", "promote", "1"),
     ("models", "export", "1", "--out", "exported"), ("lineage", "1")],
)  # fmt: skip
def test_reading_commands_create_no_store(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(call(*command), 2, str(tmp_path / "mlflow.db"), "does not exist")
    assert doctor.check_tracking().level == "ok"
    with pytest.raises(NotFoundError, match="does not exist"):
        resolve_model("models:/corrfractal@champion")
    assert list_models(tracking_uri()) == []
    assert list(tmp_path.iterdir()) == []


# Several at once


def _train(project: Path, uri: str, digest: str, gate: multiprocessing.synchronize.Barrier) -> None:
    """Use the store as a training does."""
    gate.wait()
    run_id = start_run(uri, "run", {"steps": 4}, project / "shards", digest)
    with tempfile.TemporaryDirectory() as folder:
        metrics = MetricsFile(Path(folder) / "metrics.jsonl", 0)
        metrics.append(MetricLine(step=1, time=1, values={"loss": 1.0}))
        assert Uploader(uri, run_id, metrics.path).close("FINISHED")
    register(
        project / "runs" / "first" / "model.safetensors",
        run_id,
        uri,
        digest,
        serving_file=SERVING_FILE,
    )


def test_several_first_trainings_at_once_share_one_store(
    project: Path, held: TrainingJob, tmp_path: Path
) -> None:
    (tmp_path / ".mlflow.db.new").write_text(
        "left by a process that was killed while it created the store"
    )
    file = tmp_path / "mlflow.db"
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(3)
    arguments = (project, sqlite_uri(file), held.shards_digest, gate)
    processes = [fork.Process(target=_train, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlartifacts"}
    with contextlib.closing(sqlite3.connect(file)) as base:
        assert base.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone() == (
            3,
        )
        assert base.execute("SELECT count(*) FROM model_versions").fetchone() == (3,)
        assert base.execute(
            "SELECT count(*) FROM experiments WHERE name = 'corrfractal'"
        ).fetchone() == (1,)


def _record_data_sets(uri: str, gate: multiprocessing.synchronize.Barrier) -> None:
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run():
        for number in range(20):
            gate.wait()
            _log_data_set("shards", f"{number:02}" * 32, "train")


def test_runs_that_record_one_data_set_at_once_all_hold_it(tmp_path: Path) -> None:
    uri = sqlite_uri(tmp_path / "mlflow.db")
    mlflow.MlflowClient(uri).search_experiments()  # creates the tables
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(3)
    processes = [fork.Process(target=_record_data_sets, args=(uri, gate)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * 3
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as base:
        assert base.execute("SELECT count(*) FROM datasets").fetchone() == (20,)
        assert base.execute("SELECT count(*) FROM inputs").fetchone() == (60,)


def test_the_lock_of_a_killed_process_does_not_hold(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    taken = fork.Event()

    def hold() -> None:
        with store_lock(tmp_path / "mlflow.db"):
            taken.set()
            time.sleep(600)

    process = fork.Process(target=hold)
    process.start()
    taken.wait()
    process.kill()
    process.join()
    started = time.monotonic()
    with store_lock(tmp_path / "mlflow.db"):
        assert time.monotonic() - started < 1
    assert list(tmp_path.iterdir()) == []


def test_a_timeout_of_the_lock_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "CREATE_SECONDS", 0.2)
    with (
        store_lock(tmp_path / "mlflow.db"),
        pytest.raises(CorrFractalError, match="locked by another process"),
        store_lock(tmp_path / "mlflow.db"),
    ):
        pass


class _Race(BaseHTTPRequestHandler):
    """A server on which another process creates the experiment between our two requests."""

    def do_GET(self) -> None:
        exists = self.server.asked  # type: ignore[attr-defined]
        known = {
            "experiment": {"experiment_id": "7", "name": "corrfractal", "lifecycle_stage": "active"}
        }
        missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}
        self._answer(200 if exists or "health" in self.path else 404, known if exists else missing)

    def do_POST(self) -> None:
        self.server.asked = True  # type: ignore[attr-defined]
        self._answer(400, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "there is one"})

    def _answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_an_experiment_that_another_process_creates_meanwhile_is_used() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Race) as server:
        server.asked = False  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert open_experiment(f"http://127.0.0.1:{server.server_port}") == "7"
        server.shutdown()


# Locked and damaged stores


def cut(file: Path) -> None:
    os.truncate(file, 5000)


def text(file: Path) -> None:
    file.write_text("this is not a database, but long enough to look like one\n" * 100)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def foreign(file: Path) -> None:
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as base, base:
        base.execute("CREATE TABLE customers (name)")


def interrupted(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as base, base:
        base.execute("DELETE FROM alembic_version")


def newer(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as base, base:
        base.execute("UPDATE alembic_version SET version_num = 'f00dfeed0001'")


def older(file: Path) -> None:
    known, head = mlflow_revisions()
    with contextlib.closing(sqlite3.connect(file)) as base, base:
        base.execute("UPDATE alembic_version SET version_num = ?", (min(known - {head}),))


STATES = [
    (cut, 1, "damaged or truncated"),
    (text, 1, "is not an SQLite database"),
    (folder, 2, "is a folder, not a file"),
    (foreign, 2, "database of another program"),
    (interrupted, 1, "never completed"),
    (newer, 2, "newer MLflow (schema f00dfeed0001): install that version"),
    (older, 2, "run `mlflow db upgrade 'sqlite:///"),
]


def assert_every_command(exit_code: int, *parts: str) -> None:
    """All commands that open a store report the same error, and doctor finds it beforehand."""
    for command in (
        ("models", "list"), ("models", "show", "1"), ("models", "promote", "1"),
        ("models", "rollback"),
        ("models", "history"), ("models", "export", "1", "--out", "exported"), ("lineage", "1"),
        ("precompute", "nothing.mp4", "--out", "built", "--track"),
    ):  # fmt: skip
        assert_one_sentence(call(*command), exit_code, *parts)
    for act in (
        lambda: resolve_model(None),  # propagate, evaluate
        lambda: start_run(tracking_uri(), "second", {}, "shards", ""),  # train
        lambda: register(
            Path("runs/first/model.safetensors"),
            "0" * 32,
            tracking_uri(),
            "",
            serving_file=SERVING_FILE,
        ),
    ):
        with pytest.raises(CorrFractalError) as caught:
            act()
        assert caught.value.exit_code == exit_code
        assert "\n" not in str(caught.value)
        assert all(part in str(caught.value) for part in parts)
    finding = doctor.check_tracking()
    assert finding.level == "fault"
    assert all(part in finding.found for part in parts)


@pytest.mark.parametrize(
    ("damage", "exit_code", "said"), STATES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_store_that_cannot_be_used_is_one_sentence_from_every_command(
    damage: object, exit_code: int, said: str, copy: Path
) -> None:
    assert callable(damage)
    damage(copy / "mlflow.db")
    before = files(copy)
    assert_every_command(exit_code, said, str(copy / "mlflow.db"))
    assert files(copy) == before


def test_a_locked_store_is_one_sentence_from_every_command(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "LOCK_SECONDS", 0.05)
    with contextlib.closing(sqlite3.connect("mlflow.db")) as base:
        base.execute("BEGIN EXCLUSIVE")
        assert_every_command(1, f"store {copy}/mlflow.db is locked by another process")


def test_damage_behind_the_first_page_is_found_by_doctor_and_one_sentence_in_use(
    copy: Path,
) -> None:
    contents = bytearray((copy / "mlflow.db").read_bytes())
    contents[8192:] = os.urandom(len(contents) - 8192)
    (copy / "mlflow.db").write_bytes(contents)
    assert "damaged" in doctor.check_tracking().found
    assert_one_sentence(call("models", "list"), 1, "damaged or truncated", str(copy / "mlflow.db"))


def test_missing_artefacts_are_named_and_the_starter_is_not_taken_instead(copy: Path) -> None:
    resolve_model(None)
    shutil.rmtree("mlartifacts")
    with pytest.raises(
        IntegrityError, match=rf"models:/corrfractal/1 is in the MLflow store.*{copy}"
    ):
        resolve_model(None)


def test_a_full_disk_and_a_read_only_file_have_different_errors(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    engine = sqlalchemy.create_engine(sqlite_uri(file))
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("PRAGMA max_page_count = 3"))
        connection.execute(sqlalchemy.text("CREATE TABLE t (x)"))
        with pytest.raises(sqlalchemy.exc.OperationalError) as full:
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (zeroblob(100000))"))
    base = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)
    with contextlib.closing(base), pytest.raises(sqlite3.OperationalError) as read_only:
        base.execute("CREATE TABLE u (x)")
    engine.dispose()
    assert str(file) in str(store_error(full.value, sqlite_uri(file)))
    assert "is full" in str(store_error(full.value, sqlite_uri(file)))
    assert "cannot be written (read-only)" in str(store_error(read_only.value, sqlite_uri(file)))


# Servers


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "uri", ["http://ann:s3cret@127.0.0.1:9", "postgresql://ann:s3cret@127.0.0.1:9/db"]
)
def test_a_server_that_is_away_is_one_sentence_at_once(
    uri: str, monkeypatch: pytest.MonkeyPatch, copy: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    assert_every_command(1, uri.replace("s3cret", "***"), "did not answer", "refused")
    assert time.monotonic() - started < 10


def test_a_server_that_never_answers_is_one_sentence(
    silent: str, monkeypatch: pytest.MonkeyPatch, copy: Path
) -> None:
    monkeypatch.setattr(availability, "ANSWER_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{silent}")
    assert_every_command(1, silent, "did not answer", "timed out")


def test_an_evaluation_whose_store_breaks_keeps_its_scores_and_warns(
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ray_session: None,
) -> None:
    render_evaluation_set(copy / "davis", sequences=1, frames=4, size=(64, 64))
    summarize = Davis.summarize

    def break_the_store(*arguments: Any) -> Any:
        cut(copy / "mlflow.db")
        return summarize(*arguments)

    monkeypatch.setattr(Davis, "summarize", break_the_store)
    evaluation = evaluate_davis(copy / "davis", copy / "scores", "models:/corrfractal/1")
    assert (copy / "scores" / "scores.json").exists()
    assert (copy / "scores" / "report.html").exists()
    assert 0 <= evaluation.JF <= 1
    said = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("warning: the scores are in")
    ]
    assert len(said) == 1
    assert f"{copy}/mlflow.db is damaged" in said[0]


def test_a_moved_store_that_cannot_be_written_is_still_listed(copy: Path) -> None:
    """As another user: root may write everywhere."""
    if os.getuid() != 0:
        pytest.skip("needs root, to become a user who owns nothing")
    below = len(copy.relative_to(tempfile.gettempdir()).parts)
    for folder in (copy, *list(copy.parents)[: below - 1]):
        folder.chmod(0o755)
    fork = multiprocessing.get_context("fork")
    told = fork.Queue()

    def look() -> None:
        os.setuid(65534)
        try:
            refused = call("models", "promote", "1").output
            told.put((len(list_models(tracking_uri())), refused, doctor.check_tracking().level))
        except BaseException as exc:
            told.put(repr(exc))

    list_models(sqlite_uri(copy / "mlflow.db"))  # imports what MLflow imports late
    with contextlib.closing(sqlite3.connect("mlflow.db")) as base, base:
        base.execute("UPDATE experiment_tags SET value = '/gone/mlflow.db'")
    process = fork.Process(target=look)
    process.start()
    count, refused, level = told.get(timeout=60)
    process.join()
    assert (count, level) == (1, "fault")
    assert "cannot be written" in refused


def test_scores_that_cannot_be_noted_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    scores = Scores(
        dataset="davis2017-val",
        set_digest="a",
        settings="b",
        weights="c",
        sequences=1,
        objects=1,
        J=0.5,
        F=0.5,
        at="2026-01-01",
    )
    with pytest.raises(CorrFractalError, match=r"127\.0\.0\.1:9 did not answer"):
        log_scores("0" * 32, ("corrfractal", "1"), scores, {})


@pytest.mark.parametrize("uri", ["garbage://x", "s3://bucket/mlflow", "mlruns", "file:///runs"])
def test_an_unsupported_store_is_refused_without_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(CallError, match="the MLflow store"):
        resolve_model(None)
    assert list(tmp_path.iterdir()) == []


def test_a_separate_model_registry_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    with pytest.raises(CallError, match="MLFLOW_REGISTRY_URI names http://127"):
        check_store(tracking_uri(), write=True)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///mlflow.db")
    assert check_store(tracking_uri(), write=True) is False
