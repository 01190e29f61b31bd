"""Builds that grow: after any change of the folder, every file is that of a build from nothing."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tests.local_build
from corrfractal.common.errors import CorrFractalError
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest
from corrfractal.video import write_video
from pipeline.discover import segments
from pipeline.report.build_result import PrecomputeResult
from pipeline.run import precompute
from pipeline.store import sample_segment
from tests.local_build import run_build, stored_files, verify
from tests.pipeline.growing import Growing

BASE = {"a.mp4": 0, "b.mp4": 1, "c.mp4": 2, "d.mp4": 3, "sub/e.mp4": 4, "sub/f.mp4": 5, "g.mp4": 6}

# Name of the change: the set after it, and sources added, changed and removed
CHANGES = {
    "add": ({**BASE, "h.mp4": 7}, (1, 0, 0)),
    "change": ({**BASE, "c.mp4": 8}, (0, 1, 0)),
    "remove": ({name: video for name, video in BASE.items() if name != "b.mp4"}, (0, 0, 1)),
    "rename": (
        {("x.mp4" if name == "b.mp4" else name): video for name, video in BASE.items()},
        (1, 0, 1),
    ),
    "move": (
        {("sub/d.mp4" if name == "d.mp4" else name): video for name, video in BASE.items()},
        (1, 0, 1),
    ),
    "swap": ({**BASE, "a.mp4": 6, "g.mp4": 0}, (0, 2, 0)),
    "nothing": (BASE, (0, 0, 0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_after_any_change_the_folder_is_that_of_a_build_from_nothing(
    growing: Growing, change: str
) -> None:
    layout, counts = CHANGES[change]
    growing.lay(BASE)
    growing.build()
    before = {path.name: path.stat().st_mtime_ns for path in growing.out.glob("shard-*")}
    earlier = growing.files()

    growing.lay(layout)
    changes = growing.changes()
    assert growing.files() == earlier  # a dry run writes nothing
    assert (changes.added, changes.changed, changes.removed) == counts
    result = growing.build()
    assert growing.files() == growing.from_nothing()
    assert len(result.made) == changes.pending

    # Only the shards whose bytes changed were written.
    after = {path.name: path.stat().st_mtime_ns for path in growing.out.glob("shard-*.tar")}
    touched = {name for name, mtime in after.items() if before.get(name) != mtime}
    assert touched == set(result.made)
    assert all(growing.files()[name] != earlier.get(name) for name in touched)
    assert (len(touched) <= 2) or change in ("swap",)


def test_nothing_of_a_removed_source_is_left(growing: Growing) -> None:
    growing.lay({**BASE, "gone.mp4": 7})
    (growing.videos / "gone-bad.mp4").write_text("no video\n" * 100)
    growing.build()
    assert b"gone-bad.mp4" in growing.files()["quarantine.jsonl"]
    growing.lay(BASE)
    growing.build()
    everything = [path.read_bytes() for path in growing.out.rglob("*") if path.is_file()]
    assert not [contents for contents in everything if b"gone" in contents]
    names = {path.stem for path in growing.out.glob("shard-*")}
    assert names == {name.removesuffix(".tar") for name in urls(growing)}


def test_a_touched_file_is_read_again_and_counts_as_unchanged(growing: Growing) -> None:
    growing.lay(BASE)
    growing.build()
    before = {path.name: path.stat().st_mtime_ns for path in growing.out.glob("shard-*")}
    (growing.videos / "b.mp4").touch()
    assert growing.changes().pending == 1
    assert growing.build().made == ()
    assert {path.name: path.stat().st_mtime_ns for path in growing.out.glob("shard-*")} == before
    assert growing.files() == growing.from_nothing()
    assert growing.changes().pending == 0  # its new stamp is known


def test_clips_of_unchanged_videos_are_copied_when_a_group_changes(growing: Growing) -> None:
    growing.config = dataclasses.replace(growing.config, videos_per_shard=8)
    growing.lay(BASE)
    growing.build()
    growing.lay({**BASE, "c.mp4": 8})
    result = growing.build()
    assert result.copied > 0
    assert result.stored - result.copied == 1  # the changed video
    assert growing.files() == growing.from_nothing()


def test_a_folder_that_changes_many_times_has_no_history(growing: Growing) -> None:
    rng = random.Random(0)
    names = [f"{name}.mp4" for name in "abcdefgh"]
    layout: dict[str, int] = {}
    for _ in range(12):
        for name in rng.sample(names, 3):
            layout[name] = rng.randrange(10)
        for name in rng.sample(names, 2):
            layout.pop(name, None)
        if layout:
            growing.lay(layout)
            growing.build()
            assert growing.files() == growing.from_nothing()


# Equal bytes


def test_of_equal_files_the_first_by_name_is_sampled_whichever_came_first(
    growing: Growing,
) -> None:
    growing.lay({"b.mp4": 0, "c.mp4": 1})
    growing.build()
    growing.lay({"a.mp4": 0, "b.mp4": 0, "c.mp4": 1})
    growing.build()
    assert outcomes(growing) == {"a.mp4": "sampled", "b.mp4": "rejected", "c.mp4": "sampled"}
    assert growing.files() == growing.from_nothing()
    assert growing.changes().pending == 0


def test_when_the_first_of_equal_files_is_removed_another_takes_its_place(
    growing: Growing,
) -> None:
    growing.lay({"a.mp4": 0, "b.mp4": 0, "c.mp4": 0, "d.mp4": 1})
    growing.build()
    growing.lay({"b.mp4": 0, "c.mp4": 0, "d.mp4": 1})
    growing.build()
    assert outcomes(growing) == {"b.mp4": "sampled", "c.mp4": "rejected", "d.mp4": "sampled"}
    assert growing.files() == growing.from_nothing()
    growing.lay({"c.mp4": 0, "d.mp4": 1})
    growing.build()
    assert outcomes(growing) == {"c.mp4": "sampled", "d.mp4": "sampled"}
    assert growing.files() == growing.from_nothing()


@pytest.mark.parametrize("place", ["middle", "between the parts that are compared"])
def test_files_of_equal_size_and_other_bytes_are_two_videos(growing: Growing, place: str) -> None:
    growing.lay({"a.mp4": 0, "c.mp4": 1})
    # A padding box, so that the videos stay readable whatever it contains.
    padding = bytearray(100_000)
    size = len(growing.pool[0]) + len(padding) + 8
    box = (len(padding) + 8).to_bytes(4, "big") + b"free"
    (growing.videos / "a.mp4").write_bytes(growing.pool[0] + box + padding)
    padding[size // 2 - len(growing.pool[0]) if place == "middle" else 20_000] = 1
    (growing.videos / "b.mp4").write_bytes(growing.pool[0] + box + padding)
    growing.build()
    assert outcomes(growing) == dict.fromkeys(("a.mp4", "b.mp4", "c.mp4"), "sampled")
    assert growing.changes().pending == 0

    # One becomes equal to the other, and different again.
    different = (growing.videos / "b.mp4").read_bytes()
    (growing.videos / "b.mp4").write_bytes((growing.videos / "a.mp4").read_bytes())
    growing.build()
    assert outcomes(growing)["b.mp4"] == "rejected"
    assert growing.files() == growing.from_nothing()
    (growing.videos / "b.mp4").write_bytes(different)
    growing.build()
    assert growing.files() == growing.from_nothing()


# Long videos


@pytest.fixture
def segmented(
    growing: Growing,
    swaying_frames: Callable[[int], list[np.ndarray]],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Growing:
    """Videos 10 and 11 of the pool have three segments each."""
    monkeypatch.setattr(segments, "LEAST_BYTES", 1000)
    monkeypatch.setattr(segments, "LEAST_RATE", 2000)
    folder = tmp_path_factory.mktemp("long")
    long = []
    for number in range(2):
        path = folder / f"{number}.mp4"
        write_video(
            path, [frame[number : 64 + number, :64] for frame in swaying_frames(108)], fps=24
        )
        long.append(path.read_bytes())
    growing.pool = (*growing.pool, *long)
    growing.config = dataclasses.replace(growing.config, segment_seconds=1.5)
    return growing


WITH_LONG = {"a.mp4": 0, "b-long.mp4": 10, "c.mp4": 1, "d.mp4": 2}


def test_a_long_video_is_added_changed_and_removed_as_its_segments(segmented: Growing) -> None:
    growing = segmented
    growing.lay({name: WITH_LONG[name] for name in ("a.mp4", "c.mp4", "d.mp4")})
    growing.build()
    growing.lay(WITH_LONG)
    assert len(growing.build().made) >= 3
    assert growing.files() == growing.from_nothing()
    assert outcomes(growing)["b-long.mp4"] == "sampled"

    growing.lay({**WITH_LONG, "b-long.mp4": 11})
    assert growing.changes().changed == 1
    assert len(growing.build().made) == 3
    assert growing.files() == growing.from_nothing()

    growing.lay({**WITH_LONG, "b-long.mp4": 3})  # a short one of the same name
    growing.build()
    assert growing.files() == growing.from_nothing()
    growing.lay(WITH_LONG)
    growing.build()
    assert growing.files() == growing.from_nothing()

    growing.lay({name: WITH_LONG[name] for name in ("a.mp4", "c.mp4", "d.mp4")})
    growing.build()
    assert growing.files() == growing.from_nothing()


def test_one_damaged_segment_of_a_long_video_is_rebuilt_alone(segmented: Growing) -> None:
    growing = segmented
    growing.lay(WITH_LONG)
    growing.build()
    rows = source_rows(growing)
    name = rows["b-long.mp4"]["shards"][1]
    tar = growing.out / name
    tar.write_bytes(b"flipped" + tar.read_bytes()[7:])
    assert len(verify(growing.out)) == 1
    assert growing.build().made == (name,)
    assert growing.files() == growing.from_nothing()
    assert not verify(growing.out)


def test_a_source_that_changes_between_its_segments_fails_the_build_and_the_next_is_right(
    segmented: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = segmented
    growing.lay(WITH_LONG)
    real = tests.local_build.make_shard

    def changing(spec: Any, *arguments: Any) -> Any:
        result = real(spec, *arguments)
        if spec.segments[0].count > 1 and spec.segments[0].number == 0:
            (growing.videos / "b-long.mp4").write_bytes(growing.pool[11])
        return result

    with monkeypatch.context() as patch:
        patch.setattr(tests.local_build, "make_shard", changing)
        with pytest.raises(CorrFractalError, match=r"b-long\.mp4 changed .* run the same command"):
            growing.build()
    assert not (growing.out / "manifest.json").exists()
    growing.build()
    assert growing.files() == growing.from_nothing()


def test_earlier_builds_with_other_segment_lengths_leave_no_trace(segmented: Growing) -> None:
    growing = segmented
    growing.lay(WITH_LONG)
    for seconds in (1.5, 600.0, 1.5, 2.2):
        growing.config = dataclasses.replace(growing.config, segment_seconds=seconds)
        growing.build()
        assert growing.files() == growing.from_nothing()


# Damaged sources and entries that cannot be read


def test_a_damaged_video_that_is_mended_leaves_quarantine(growing: Growing) -> None:
    growing.lay(BASE)
    (growing.videos / "b.mp4").write_bytes(growing.pool[1][:2000])
    growing.build()
    assert b"b.mp4" in growing.files()["quarantine.jsonl"]
    (growing.videos / "b.mp4").write_bytes(growing.pool[1])
    growing.build()
    assert growing.files()["quarantine.jsonl"] == b""
    assert growing.files() == growing.from_nothing()


def test_a_broken_link_is_quarantined_until_it_leads_to_a_video(growing: Growing) -> None:
    growing.lay(BASE)
    target = growing.root / "elsewhere.mp4"
    (growing.videos / "link.mp4").symlink_to(target)
    growing.build()
    first = growing.files()
    assert outcomes(growing)["link.mp4"] == "quarantined"
    assert growing.build().made == ()
    assert growing.changes().changed == 0
    assert growing.files() == first

    target.write_bytes(growing.pool[8])
    growing.build()
    assert outcomes(growing)["link.mp4"] == "sampled"
    target.unlink()
    growing.build()
    assert growing.files() == first


def test_a_line_of_a_list_that_leads_nowhere_is_quarantined_until_it_is_mended(
    growing: Growing,
) -> None:
    growing.lay({"a.mp4": 0, "b.mp4": 1})
    listing = growing.videos / "list.txt"
    listing.write_text("a.mp4\nb.mp4\nmissing.mp4\n")
    run_build([listing], growing.out, growing.config)
    assert outcomes(growing)["missing.mp4"] == "quarantined"
    (growing.videos / "missing.mp4").write_bytes(growing.pool[2])
    run_build([listing], growing.out, growing.config)
    assert outcomes(growing)["missing.mp4"] == "sampled"
    run_build([listing], growing.root / "again", growing.config)
    assert growing.files() == stored_files(growing.root / "again")


def test_a_source_that_could_not_be_read_is_read_by_the_next_build(
    growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing.lay(BASE)
    growing.build()
    tar = next(growing.out.glob("shard-*.tar"))
    tar.unlink()  # its shard is built again, while the store cannot be reached
    real = sample_segment.read_content

    def failing(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sample_segment, "read_content", failing)
    growing.build()
    assert b"Permission denied" in growing.files()["quarantine.jsonl"]
    monkeypatch.setattr(sample_segment, "read_content", real)
    growing.build()
    assert growing.files() == growing.from_nothing()


def test_only_shards_with_quarantined_sources_are_tried_again_on_request(
    growing: Growing,
) -> None:
    growing.lay(BASE)
    (growing.videos / "bad.mp4").write_bytes(growing.pool[1][:2000])
    growing.build()
    first = growing.files()
    made = growing.build(retry_quarantined=True).made
    assert made == tuple(bad_shards(growing))
    assert growing.build().made == ()
    assert growing.files() == first


# The driver


@pytest.mark.usefixtures("ray_session")
def test_the_driver_counts_what_is_new_changed_and_gone(growing: Growing) -> None:
    def build() -> PrecomputeResult:
        return precompute([str(growing.videos)], growing.out, growing.config, workers=2)

    growing.lay(BASE)
    first = build()
    assert (first.added, first.changed, first.removed) == (7, 0, 0)
    assert growing.files() == growing.from_nothing()

    layout = {**BASE, "c.mp4": 8, "new.mp4": 9}
    del layout["a.mp4"]
    growing.lay(layout)
    (growing.videos / "d.mp4").touch()
    changes = growing.changes()
    assert (changes.added, changes.changed, changes.removed) == (1, 2, 1)  # contents are not read
    second = build()
    assert (second.added, second.changed, second.removed) == (1, 1, 1)
    assert growing.files() == growing.from_nothing()
    assert second.digest != first.digest

    third = build()
    assert (third.added, third.changed, third.removed, third.made) == (0, 0, 0, 0)

    # Without a state the index says what was built.
    shutil.rmtree(growing.out / ".state")
    changes = growing.changes()
    assert (changes.added, changes.removed) == (0, 0)
    fourth = build()
    assert (fourth.added, fourth.changed, fourth.removed, fourth.made) == (0, 0, 0, 0)


def test_sources_written_just_now_and_copies_are_not_new_on_every_rerun(
    growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.discover.sources.SETTLED_SECONDS", 1000.0)
    growing.lay({"a.mp4": 0, "b.mp4": 0, "c.mp4": 1})
    growing.build()
    assert growing.changes().added == 0
    assert growing.build().made == ()


def test_a_dry_run_of_a_new_folder_does_not_create_it(growing: Growing) -> None:
    growing.lay(BASE)
    changes = growing.changes()
    assert (changes.added, changes.sources) == (7, 7)
    assert changes.pending == changes.shards > 0
    assert not growing.out.exists()


def test_a_second_build_of_a_folder_is_refused_while_the_first_runs(growing: Growing) -> None:
    growing.lay(BASE)
    growing.build()
    before = growing.files()
    lines = "\n".join(
        (
            "import sys, time",
            "from pipeline.store.lock import build_lock",
            "with build_lock(sys.argv[1]):",
            "    print('locked', flush=True)",
            "    time.sleep(600)",
        )
    )
    other = subprocess.Popen(
        [sys.executable, "-c", lines, str(growing.out)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(CorrFractalError, match="another build is writing to"):
            precompute([str(growing.videos)], growing.out, growing.config)
        assert growing.changes().pending == 0  # a dry run waits for nobody
        other.kill()
    assert precompute([str(growing.videos)], growing.out, growing.config).made == 0
    assert growing.files() == before


# What the builds wrote


def outcomes(growing: Growing) -> dict[str, str]:
    """Outcome of each source in the index, by URI."""
    return {uri: row["outcome"] for uri, row in source_rows(growing).items()}


def source_rows(growing: Growing) -> dict[str, Any]:
    """Rows of index/sources.parquet, by URI."""
    table = Index(growing.out, load_manifest(growing.out)).source_table
    return {row["uri"]: row for row in table.to_pylist()}


def urls(growing: Growing) -> list[str]:
    """Names of the shards in stored order."""
    return (growing.out / "urls.txt").read_text().split()


def bad_shards(growing: Growing) -> Iterator[str]:
    """Names of shards whose sidecars name a quarantined source."""
    for name in urls(growing):
        sidecar = json.loads((growing.out / name).with_suffix(".json").read_text())
        if any(source["outcome"] == "quarantined" for source in sidecar["sources"]):
            yield name
