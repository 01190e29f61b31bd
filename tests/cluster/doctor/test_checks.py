"""Properties of the checks of ``corrfractal doctor``."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import sqlite3
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.cli import doctor as doctor_command
from cluster.doctor import checks as doctor
from corrfractal.registry.connection import create_store


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_both_decoders_read_back_what_was_encoded(decoder: str) -> None:
    assert doctor.check_decoder(decoder).level == "ok"


def test_a_database_that_does_not_exist_yet_will_be_created(tmp_path: Path) -> None:
    finding = doctor.check_tracking(f"sqlite:///{tmp_path / 'new.db'}")
    assert finding.level == "ok"
    assert "will be created" in finding.found
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_mlflow_database_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text(
        "not a database, but long enough to be mistaken for one " * 20
    )
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as base:
        base.execute("CREATE TABLE other (x)")
    assert doctor.check_tracking(f"sqlite:///{tmp_path / 'text.db'}").level == "fault"
    assert doctor.check_tracking(f"sqlite:///{tmp_path / 'other.db'}").level == "fault"


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_a_store_created_by_mlflow_answers(tmp_path: Path) -> None:
    create_store(tmp_path / "mlflow.db")
    assert doctor.check_tracking(f"sqlite:///{tmp_path / 'mlflow.db'}").level == "ok"


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "postgresql://me:pw@127.0.0.1:9/db", "file:///tmp/mlruns", "./x"]
)
def test_a_tracking_store_that_cannot_be_reached_is_a_fault(uri: str) -> None:
    assert doctor.check_tracking(uri).level == "fault"


def test_a_server_answers_with_a_login_in_its_uri_too(tmp_path: Path) -> None:
    (tmp_path / "health").write_text("OK")
    files = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        finding = doctor.check_tracking(f"http://me:hunter2@127.0.0.1:{server.server_port}")
        server.shutdown()
    assert (finding.level, "hunter2" in finding.found) == ("ok", False)


@pytest.mark.parametrize("login", [None, "me:wrong"])
def test_a_server_that_refuses_the_login_is_a_fault(
    login: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str | None] = []

    class Guarded(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization"))
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    monkeypatch.setenv("HOME", str(tmp_path))  # no file with a login in it
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        finding = doctor.check_tracking(f"http://{login}@{host}" if login else f"http://{host}")
        server.shutdown()
    assert finding.level == "fault"
    assert "refuses the login" in finding.found
    assert "wrong" not in finding.found
    assert asked == [None if login is None else "Basic bWU6d3Jvbmc="]


def test_the_out_folder_need_not_exist_yet(tmp_path: Path) -> None:
    assert doctor.check_folder(tmp_path / "a" / "b").level == "ok"
    assert not (tmp_path / "a").exists()
    assert doctor.check_folder(Path("/proc/1")).level == "fault"


def test_a_broken_library_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(name: str) -> doctor.Finding:
        raise OSError("libavcodec.so.61: cannot open shared object file")

    monkeypatch.setattr(doctor, "check_decoder", broken)
    findings = doctor.examine(tmp_path)
    assert [finding.name for finding in findings if finding.level == "fault"][:2] == [
        "decord",
        "pyav",
    ]


def test_a_fault_gives_exit_code_1_and_json_reports_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fault = doctor.Finding(name="disk", level="fault", found="full", advice="make room")
    monkeypatch.setattr(doctor, "examine", lambda out: [fault])
    result = CliRunner().invoke(doctor_command, ["--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "make room" in result.output
    assert json.loads(json.dumps(doctor.report([fault])))["ok"] is False
