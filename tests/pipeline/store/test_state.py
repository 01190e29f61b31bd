from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.discover.source_table import Source
from pipeline.discover.work_plan import Known
from pipeline.store.state import FOLDER, BuildState, KnownShard

SHARD = KnownShard(bytes=9, stamp="s", spec="a", sidecar="b", contents="c")


def source(name: str, stamp: str = "1") -> Source:
    return Source(uri=name, path=f"/{name}", bytes=9, stamp=stamp)


def lines(out: Path) -> list[str]:
    (file,) = (out / FOLDER).iterdir()
    return file.read_text().splitlines()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder whose state knows the sources a and b and the shards x and y, each recorded twice."""
    for sha256 in ("old", "new"):
        state = BuildState(str(tmp_path))
        sources = [source("a"), source("b")]
        state.record_sources(sources, {name: Known(sha256=sha256, seconds=2.0) for name in "ab"})
        state.record_shard("x", SHARD)
        state.record_shard("y", SHARD)
        state.flush()
    return tmp_path


def test_the_last_line_of_a_source_counts(out):
    state = BuildState(str(out))
    assert state.known([source("a")]) == {"a": Known(sha256="new", seconds=2.0)}
    assert (state.seen, state.gone) == ({"a"}, {"b"})
    assert dict(state.shards()) == {"x": SHARD, "y": SHARD}


def test_compaction_keeps_the_last_lines_of_what_is_listed(out):
    sources = [source("a"), source("c")]
    BuildState(str(out)).compact(sources, ["x"])
    assert len(lines(out)) == 3
    state = BuildState(str(out))
    assert state.known(sources) == {"a": Known(sha256="new", seconds=2.0)}
    assert dict(state.shards()) == {"x": SHARD}


def test_a_source_of_which_nothing_is_known_is_remembered_but_not_trusted(out):
    BuildState(str(out)).compact([source("c", stamp="")], [])
    state = BuildState(str(out))
    assert state.known([source("c", stamp="")]) == {}
    assert (state.seen, state.gone) == ({"c"}, set())


def test_a_changed_source_is_not_known(out):
    BuildState(str(out)).compact([source("a", stamp="2")], [])
    state = BuildState(str(out))
    assert state.known([source("a", stamp="1")]) == {}
    assert (state.seen, state.gone) == ({"a"}, set())
    assert state.known([source("a", stamp="2")]) == {}


def test_an_unchanged_state_is_not_written_again(out):
    sources = [source("a"), source("b")]
    BuildState(str(out)).compact(sources, ["x", "y"])
    (before,) = (out / FOLDER).iterdir()
    state = BuildState(str(out))
    assert set(state.known(sources)) == {"a", "b"}
    assert set(dict(state.shards())) == {"x", "y"}
    state.compact(sources, ["x", "y"])
    assert list((out / FOLDER).iterdir()) == [before]


def test_half_a_line_and_lines_of_another_kind_are_passed_over(out):
    file = next((out / FOLDER).iterdir())
    good = '["source", "z", "1", "sha", null]'
    bad = ['["source", "a", "1", "zz', '["shard", "x", 1]', '["other", "a"]', "7", "[]", "\\udcff"]
    file.write_text("\n".join([*bad, good, ""]))
    state = BuildState(str(out))
    assert state.known([source("z")]) == {"z": Known(sha256="sha")}
    state.compact([source("z")], [])
    assert lines(out) == [good]
