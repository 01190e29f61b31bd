"""Properties of job submission that need no cluster."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from cluster.jobs import submit
from cluster.jobs.job_server import JobServer
from cluster.jobs.local_cluster import read, start, stop
from corrfractal.common.errors import CallError, CorrFractalError, NotFoundError

RECORD = {
    "pid": 1,
    "born": "x",
    "ray_address": "127.0.0.1:1",
    "dashboard": "http://127.0.0.1:7777",
    "folder": "/nonexistent",
}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*submit.ADDRESS_VARIABLES, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "cluster.json").write_text(json.dumps(RECORD))
    (tmp_path / "token").write_text("local-token\n")
    return tmp_path


def test_the_local_token_goes_to_the_local_cluster_only(state: Path) -> None:
    assert submit.find_server(None, state, None) == JobServer(
        url="http://127.0.0.1:7777", token="local-token"
    )
    assert submit.find_server("http://elsewhere:8265/", state, None) == JobServer(
        url="http://elsewhere:8265", token=None
    )


def test_a_named_token_file_takes_precedence_and_the_environment_is_the_fallback(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "named").write_text("named-token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "environment-token")
    assert submit.find_server(None, state, state / "named").token == "named-token"
    assert submit.find_server(None, state, None).token == "local-token"
    assert submit.find_server("http://elsewhere:8265", state, None).token == "environment-token"


def test_a_missing_or_empty_token_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name in ("missing", "empty"):
        with pytest.raises(NotFoundError, match=name):
            submit.find_server(None, tmp_path, tmp_path / name)


def test_an_address_that_is_not_a_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="must be a URL such as http"):
        submit.find_server("127.0.0.1:8265", tmp_path, None)


def test_a_token_is_not_shown_when_a_server_is_printed() -> None:
    assert "secret" not in repr(JobServer(url="http://127.0.0.1:8265", token="secret"))


def test_the_entry_point_runs_this_interpreter_in_the_folder_of_the_configuration(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "my videos; rm -rf"
    folder.mkdir()
    (folder / "it's.toml").write_text("")
    words = shlex.split(submit.entrypoint(folder / "it's.toml"))
    assert words == [
        "cd",
        str(folder),
        "&&",
        "exec",
        sys.executable,
        "-P",
        "-m",
        "corrfractal",
        "run",
        "it's.toml",
    ]
    with_setting = submit.entrypoint(folder / "it's.toml", ("out=a b",))
    assert shlex.split(with_setting) == [*words, "--set", "out=a b"]
    with pytest.raises(NotFoundError, match=r"gone\.toml"):
        submit.entrypoint(tmp_path / "gone.toml")


def test_a_missing_server_is_reported_in_one_sentence() -> None:
    with pytest.raises(CorrFractalError, match="no Ray job server answers at"):
        submit.submit(JobServer(url="http://127.0.0.1:9", token=None), "true")


def test_a_port_in_use_is_reported_before_anything_starts(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CallError, match="--port"):
            start(tmp_path, port=taken.getsockname()[1])
    assert not (tmp_path / "cluster.json").exists()


def test_stopping_a_cluster_that_was_never_started_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing to stop"):
        stop(tmp_path)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text("{}")
    with pytest.raises(CorrFractalError, match=r"cluster\.json is damaged"):
        read(tmp_path)
