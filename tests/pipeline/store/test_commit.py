"""Commits beside another build, in folders that list late, and after an index that shrank."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corrfractal.common.errors import CorrFractalError, NotFoundError
from corrfractal.files import storage
from corrfractal.shards import index as index_module
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest
from pipeline.store import commit as commit_module
from tests.local_build import LocalBuild, run_build, stored_files, verify
from tests.pipeline.growing import Growing

BASE = {"a.mp4": 0, "b.mp4": 1, "c.mp4": 2, "d.mp4": 3, "e.mp4": 4}
GROWN = {"a.mp4": 0, "b.mp4": 8, "d.mp4": 3, "e.mp4": 4, "f.mp4": 5}


# Two builds at once in a folder without a lock, as in an object store


@contextlib.contextmanager
def another_build_before(
    growing: Growing, module: Any, name: str, call: int, layout: dict[str, int]
) -> Iterator[None]:
    """Run a complete build of another set just before one call of a function."""
    other = Growing(growing.root / "other", growing.config, growing.pool)
    other.root.mkdir()
    other.lay(layout)
    real: Callable[..., Any] = getattr(module, name)
    calls = 0

    def wrapped(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            run_build([other.videos], growing.out, growing.config)
        return real(*arguments)

    scratch = growing.root / "scratch"
    scratch.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, wrapped)
        # Temporary files are not in the folder, as with an object store.
        patch.setattr(storage, "scratch", lambda folder: scratch)
        yield


@pytest.mark.parametrize("layout", [GROWN, BASE], ids=["another set", "the same set"])
@pytest.mark.parametrize(
    ("name", "call"), [("write", number) for number in range(1, 24, 2)] + [("put", 2)]
)
def test_of_two_builds_at_once_none_leaves_a_folder_that_does_not_fit_its_manifest(
    growing: Growing, name: str, call: int, layout: dict[str, int]
) -> None:
    growing.lay(BASE)
    with (
        another_build_before(growing, storage, name, call, layout),
        # What a task raises is a sentence in the driver of a build on Ray.
        contextlib.suppress(CorrFractalError, FileNotFoundError),
    ):
        growing.build()
    with contextlib.suppress(NotFoundError):  # without a manifest nothing is claimed
        manifest = load_manifest(growing.out)
        Index(growing.out, manifest).check()
        assert not verify(growing.out)
    growing.build()
    assert growing.files() == growing.from_nothing()


def test_a_shard_that_another_build_removed_ends_the_commit(
    growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing.lay(BASE)
    real = commit_module.write_index

    def removing(*arguments: Any) -> Any:
        next(growing.out.glob("shard-*.tar")).unlink()
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(commit_module, "write_index", removing)
        with pytest.raises(CorrFractalError, match="by another build"):
            growing.build()
    assert not (growing.out / "manifest.json").exists()
    growing.build()
    assert growing.files() == growing.from_nothing()


# A store that lists late


@contextlib.contextmanager
def late_listings(hidden: set[str]) -> Iterator[None]:
    """Listings leave out files of these names; reading them by name works."""
    facts = storage.file_facts
    listing = storage.listing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            storage,
            "file_facts",
            lambda folder: {
                name: fact for name, fact in facts(folder).items() if name not in hidden
            },
        )
        patch.setattr(
            storage,
            "listing",
            lambda folder: (
                [name for name in listing(folder)[0] if name not in hidden],
                listing(folder)[1],
            ),
        )
        yield


def test_files_that_a_store_does_not_list_yet_cost_time_and_change_nothing(
    growing: Growing,
) -> None:
    growing.lay(BASE)
    growing.build()
    expected = growing.from_nothing()
    rng = random.Random(2)
    names = sorted(path.name for path in growing.out.rglob("*") if path.is_file())
    for hidden in (names, *(rng.sample(names, len(names) // 2) for _ in range(10))):
        with late_listings(set(hidden)):
            assert growing.build().made == ()
        assert growing.files() == expected, hidden
    growing.build()
    assert growing.files() == expected


def test_a_change_is_built_right_while_listings_are_late_and_cleaned_up_after(
    growing: Growing,
) -> None:
    rng = random.Random(3)
    for number in range(10):
        growing.lay(BASE)
        growing.build()
        names = sorted(path.name for path in growing.out.rglob("*") if path.is_file())
        growing.lay({**GROWN, "g.mp4": number % 3 + 5})
        expected = growing.from_nothing()
        with late_listings(set(rng.sample(names, len(names) // 2))):
            growing.build()
        files = growing.files()
        assert {name: files[name] for name in expected} == expected
        growing.build()
        assert growing.files() == expected


# The index


def test_parts_of_an_earlier_larger_index_are_removed(
    growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "CLIPS_PER_PART", 2)
    growing.lay(BASE)
    growing.build()
    assert len(list((growing.out / "index/clips").iterdir())) == 3
    (growing.out / "index/clips/notes.txt").write_text("of a user")
    growing.lay({"a.mp4": 0, "b.mp4": 1})
    growing.build()
    names = {path.name for path in (growing.out / "index/clips").iterdir()}
    assert names == {"part-00000.parquet", "notes.txt"}


def test_rows_that_are_taken_over_are_those_of_the_sidecars(growing: Growing) -> None:
    growing.lay(BASE)
    growing.build()
    growing.lay(GROWN)
    result: LocalBuild = growing.build()
    assert result.made
    before = growing.files()
    shutil.rmtree(growing.out / "index")  # all rows are read from the sidecars again
    growing.build()
    assert growing.files() == before


def test_without_any_clip_an_earlier_data_set_stays(growing: Growing, tmp_path: Path) -> None:
    growing.lay({"a.mp4": 0, "b.mp4": 1})
    growing.build()
    before = stored_files(growing.out)
    growing.lay({})
    (growing.videos / "bad.mp4").write_text("no video\n" * 100)
    with pytest.raises(CorrFractalError, match="none of the 1 sources gave a clip"):
        growing.build()
    growing.lay({"a.mp4": 0, "b.mp4": 1})
    assert growing.build().made == ()
    assert growing.files() == before
