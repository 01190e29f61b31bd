"""What code runs: the commit where there is one, and no stranger's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from corrfractal import tracking
from corrfractal.scores import Scores, scores_from_text


def commit_in(folder: Path) -> str:
    """Make a folder a repository with one commit."""
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    (folder / "file").write_text("one")
    for call in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *call], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_whether_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = commit_in(tmp_path)
    monkeypatch.setattr(tracking, "ROOT", tmp_path.resolve())
    assert tracking.code_state()["git.commit"] == commit
    assert tracking.code_state()["git.dirty"] == "false"
    (tmp_path / "file").write_text("two")
    assert tracking.code_state()["git.dirty"] == "true"


def test_without_git_or_inside_a_strangers_repository_the_commit_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_in(tmp_path)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(tracking, "ROOT", (tmp_path / "site-packages").resolve())
    assert tracking.code_state()["git.commit"] == "unknown"
    monkeypatch.setattr(tracking, "ROOT", tmp_path.resolve())
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    state = tracking.code_state()
    assert (state["git.commit"], state["git.dirty"]) == ("unknown", "unknown")
    assert re.fullmatch(r"3\.\d+\.\d+\S*", state["version.python"])


def test_scores_go_through_a_tag_unchanged_and_their_name_tells_what_can_be_compared() -> None:
    scores = Scores(dataset="davis2017-val", set_digest="a", settings="b", weights="c", sequences=1, objects=2,
                    J=0.1 + 0.2, F=0.5, at="2026-01-01")  # fmt: skip
    assert scores_from_text(scores.to_text(), "tag") == scores
    other = scores_from_text(scores.to_text().replace('"settings": "b"', '"settings": "c"'), "tag")
    assert other.tag != scores.tag
    assert scores_from_text(scores.to_text().replace('"weights": "c"', '"weights": "d"'), "tag").tag == scores.tag
