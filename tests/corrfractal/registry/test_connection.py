"""The code state recorded in runs, scores as tags, and the errors of unreachable servers."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest

from corrfractal.common.errors import CallError, CorrFractalError
from corrfractal.registry import connection, provenance
from corrfractal.registry.scores import Scores, scores_from_text
from corrfractal.registry.weights import fetch


class Refuses(BaseHTTPRequestHandler):
    """Answers what `mlflow server --app-name basic-auth` answers to a wrong password."""

    def do_GET(self) -> None:
        said = (
            b"You are not authenticated. Please see https://www.mlflow.org/docs on how to "
            b"authenticate."
        )
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="mlflow"')
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a server that refuses every login, with one."""
    store = mlflow.get_tracking_uri()
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://ann:s3cret@127.0.0.1:{server.server_port}"
        server.shutdown()
    mlflow.set_tracking_uri(store)


def commit_in(folder: Path) -> str:
    """Make a folder a repository with one commit."""
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    (folder / "file").write_text("one")
    for call in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *call], check=True)
    return subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_and_whether_files_differ_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = commit_in(tmp_path)
    monkeypatch.setattr(provenance, "ROOT", tmp_path.resolve())
    assert provenance.code_state()["git.commit"] == commit
    assert provenance.code_state()["git.dirty"] == "false"
    (tmp_path / "file").write_text("two")
    assert provenance.code_state()["git.dirty"] == "true"


def test_without_git_or_inside_a_strangers_repository_the_commit_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_in(tmp_path)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(provenance, "ROOT", (tmp_path / "site-packages").resolve())
    assert provenance.code_state()["git.commit"] == "unknown"
    monkeypatch.setattr(provenance, "ROOT", tmp_path.resolve())
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    state = provenance.code_state()
    assert (state["git.commit"], state["git.dirty"]) == ("unknown", "unknown")
    assert re.fullmatch(r"3\.\d+\.\d+\S*", state["version.python"])


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_the_experiment_is_shown_as_model_training_and_a_users_choice_stays(tmp_path: Path) -> None:
    kind = "mlflow.experimentKind"
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    experiment = connection.open_experiment(store)
    client = mlflow.MlflowClient(store)
    assert client.get_experiment(experiment).tags[kind] == "custom_model_development"

    # One of an earlier version has no kind.
    client.delete_experiment_tag(experiment, kind)
    connection.open_experiment(store)
    assert client.get_experiment(experiment).tags[kind] == "custom_model_development"

    client.set_experiment_tag(experiment, kind, "regression")
    connection.open_experiment(store)
    assert client.get_experiment(experiment).tags[kind] == "regression"


def test_scores_go_through_a_tag_unchanged_and_their_name_tells_what_can_be_compared() -> None:
    scores = Scores(
        dataset="davis2017-val",
        set_digest="a",
        settings="b",
        weights="c",
        sequences=1,
        objects=2,
        J=0.1 + 0.2,
        F=0.5,
        at="2026-01-01",
    )
    assert scores_from_text(scores.to_text(), "tag") == scores
    other = scores_from_text(scores.to_text().replace('"settings": "b"', '"settings": "c"'), "tag")
    assert other.tag != scores.tag
    assert (
        scores_from_text(scores.to_text().replace('"weights": "c"', '"weights": "d"'), "tag").tag
        == scores.tag
    )


def test_a_refused_login_is_one_sentence_with_the_server_the_variables_and_no_password(
    refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = re.escape(refusing.replace("s3cret", "***"))
    said = rf"server at {shown} refuses .*_USERNAME and MLFLOW_TRACKING_PASSWORD"
    with pytest.raises(CallError, match=said):
        connection.open_experiment(refusing)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing)
    with pytest.raises(CallError, match=said):
        fetch("models:/corrfractal@champion", None)


def test_a_store_that_does_not_answer_is_one_sentence_without_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = mlflow.get_tracking_uri()
    with pytest.raises(
        CorrFractalError, match=r"store http://ann:\*\*\*@127\.0\.0\.1:9 did not answer"
    ) as raised:
        connection.open_experiment("http://ann:s3cret@127.0.0.1:9")
    mlflow.set_tracking_uri(store)
    assert "s3cret" not in str(raised.value)
