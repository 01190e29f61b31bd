"""Every snippet of the page about queries is run here on a real data set."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest

# The page may move between the folders of the documentation.
(PAGE,) = (Path(__file__).parents[2] / "docs").rglob("query-the-index.md")
TEXT = PAGE.read_text("utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
SQL = re.findall(r"^```sql\n(.*?)^```", TEXT, re.M | re.S)


@pytest.fixture
def index(made_shards, monkeypatch):
    monkeypatch.chdir(made_shards.parent)
    return Index(made_shards, load_manifest(made_shards))


def run(code):
    """What a snippet prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    return printed.getvalue()


def test_the_page_has_a_snippet_for_every_question():
    assert len(PYTHON) == 5
    assert len(SQL) == 4


def test_counts_by_outcome_and_reason(index):
    printed = run(PYTHON[0])
    lost = list(index.lost_sources())
    assert re.search(r"^quarantined +3$", printed, re.M)
    assert re.search(r"^sampled +2$", printed, re.M)
    assert all(source.reason in printed for source in lost)


def test_clips_per_source(index):
    printed = run(PYTHON[1]).splitlines()
    assert "('min', 0), ('max', 2)" in printed[0]
    rows = [line.split(maxsplit=1) for line in printed[1:]]
    assert {uri: int(clips) for clips, uri in rows} == {s.uri: s.clips for s in index.sources}


def test_shards_of_a_source(index):
    printed = run(PYTHON[2])
    (shards,) = [
        shards for entry, shards in index.sources_with_shards() if entry.uri.endswith("long.mkv")
    ]
    assert shards
    assert all(shard in printed for shard in shards)


def test_shards_with_the_worst_labels(index):
    printed = run(PYTHON[3])
    assert all(shard.name in printed for shard in index.shards)


def test_clips_and_where_they_are_stored(index):
    expected = [f"{ref.key} {ref.shard} {ref.offset} {ref.length}" for ref in index.sample_refs()]
    assert run(PYTHON[4]).splitlines() == expected


@pytest.mark.parametrize("query", SQL)
def test_duckdb_answers(query, index):
    duckdb = pytest.importorskip("duckdb")
    assert duckdb.sql(query).fetchall()
