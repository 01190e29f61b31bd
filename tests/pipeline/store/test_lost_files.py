"""Whatever of a folder is lost or restored, the next build gives what a build from nothing gives."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.growing import Growing

BASE = {"a.mp4": 0, "b.mp4": 1, "c.mp4": 2, "d.mp4": 3, "e.mp4": 4}
GROWN = {"a.mp4": 0, "b.mp4": 8, "d.mp4": 3, "e.mp4": 4, "f.mp4": 5}


@pytest.fixture
def grown(growing: Growing) -> Growing:
    """Built twice; the folder ``earlier`` is a copy of the shards as the first build left them."""
    growing.lay(BASE)
    (growing.videos / "bad.mp4").write_bytes(growing.pool[1][:2000])
    growing.build()
    shutil.copytree(growing.out, growing.root / "earlier")
    growing.lay({**GROWN, "bad.mp4": 9})
    (growing.videos / "bad.mp4").write_bytes(growing.pool[2][:2000])
    growing.build()
    return growing


def state_files(growing: Growing) -> list[Path]:
    return sorted((growing.out / ".state").glob("*.jsonl"))


def lose(growing: Growing) -> None:
    shutil.rmtree(growing.out / ".state")


def cut_the_last_line(growing: Growing) -> None:
    (path,) = state_files(growing)
    path.write_bytes(path.read_bytes()[:-30])


def cut_every_line(growing: Growing) -> None:
    (path,) = state_files(growing)
    path.write_text("".join(line[:20] + "\n" for line in path.read_text().splitlines()))


def fill_with_other_values(growing: Growing) -> None:
    lines = ["null", "[]", "{}", "3", '["source"]', '["source",1,2,3,4]', '["shard","x",null]', ""]
    lines += ['["source","a.mp4",null,null,"long"]', '["shard","x","y","z","u","v","w"]']
    (path,) = state_files(growing)
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n" + path.read_bytes())


def restore_the_earlier_one(growing: Growing) -> None:
    shutil.rmtree(growing.out / ".state")
    shutil.copytree(growing.root / "earlier" / ".state", growing.out / ".state")


def add_the_earlier_one_as_if_it_were_later(growing: Growing) -> None:
    (path,) = (growing.root / "earlier" / ".state").glob("*.jsonl")
    shutil.copy2(path, growing.out / ".state" / f"{9:020d}-1.jsonl".replace("0", "9", 1))


def name_other_inodes_and_times(growing: Growing) -> None:
    (path,) = state_files(growing)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        column = 2 if row[0] == "source" else 3
        row[column] = " ".join(f"{part}1" for part in row[column].split())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "change",
    [
        lose,
        cut_the_last_line,
        cut_every_line,
        fill_with_other_values,
        restore_the_earlier_one,
        add_the_earlier_one_as_if_it_were_later,
        name_other_inodes_and_times,
    ],
)
def test_no_state_of_any_kind_changes_a_byte_or_builds_a_shard_again(
    grown: Growing, change: Callable[[Growing], None]
) -> None:
    change(grown)
    assert grown.build().made == ()
    assert grown.files() == grown.from_nothing()

    # The slow way is taken once.
    assert grown.changes().pending == 0
    assert len(state_files(grown)) == 1


@pytest.mark.parametrize("change", [lose, restore_the_earlier_one, name_other_inodes_and_times])
def test_a_change_is_found_without_a_useful_state(
    grown: Growing, change: Callable[[Growing], None]
) -> None:
    change(grown)
    grown.lay({**GROWN, "a.mp4": 7, "bad.mp4": 6})
    grown.build()
    assert grown.files() == grown.from_nothing()


def test_a_copied_folder_is_checked_once_and_nothing_is_built_again(grown: Growing) -> None:
    moved = grown.root / "copy"
    shutil.copytree(grown.out, moved)
    shutil.rmtree(grown.out)
    moved.rename(grown.out)
    assert grown.build().made == ()
    assert grown.files() == grown.from_nothing()
    assert grown.changes().pending == 0


def test_videos_that_were_copied_to_another_machine_are_the_same_data_set(grown: Growing) -> None:
    copies = grown.root / "copies"
    shutil.copytree(grown.videos, copies)
    shutil.rmtree(grown.videos)
    copies.rename(grown.videos)
    assert grown.build().made == ()
    assert grown.files() == grown.from_nothing()


PARTS = {
    "manifest": ["manifest.json"],
    "shards index": ["index/shards.parquet"],
    "sources index": ["index/sources.parquet"],
    "clips index": ["index/clips/part-00000.parquet"],
    "tars": ["shard-*.tar"],
    "sidecars": ["shard-*.json"],
    "texts": ["urls.txt", "quarantine.jsonl"],
    "state": [".state/*"],
}


def disturb(growing: Growing, part: str, how: str) -> None:
    """Remove files of a part, restore those of the earlier build, or flip a byte of each."""
    for pattern in PARTS[part]:
        for path in list(growing.out.glob(pattern)):
            if how == "flipped":
                contents = bytearray(path.read_bytes() or b"x")
                contents[len(contents) // 2] ^= 1
                path.write_bytes(contents)
            elif how == "lost" or (how == "restored" and part == "state"):
                path.unlink()
        if how == "restored":
            for path in (growing.root / "earlier").glob(pattern):
                target = growing.out / path.relative_to(growing.root / "earlier")
                if part != "tars" or target.exists():
                    shutil.copy2(path, target)


@pytest.mark.parametrize("how", ["lost", "restored", "flipped"])
@pytest.mark.parametrize("part", PARTS)
def test_any_part_that_is_lost_or_restored_or_damaged_is_mended(
    grown: Growing, part: str, how: str
) -> None:
    disturb(grown, part, how)
    grown.build()
    assert grown.files() == grown.from_nothing()
    assert grown.build().made == ()
    assert grown.files() == grown.from_nothing()


def test_any_mixture_of_lost_and_restored_parts_is_mended(grown: Growing) -> None:
    rng = random.Random(1)
    for _ in range(25):
        mixture = {part: rng.choice(["kept", "lost", "restored", "flipped"]) for part in PARTS}
        for part, how in mixture.items():
            disturb(grown, part, how)
        grown.build()
        assert grown.files() == grown.from_nothing(), mixture


def test_shards_of_an_earlier_build_that_a_user_restored_are_removed(grown: Growing) -> None:
    for path in (grown.root / "earlier").glob("shard-*"):
        shutil.copy2(path, grown.out / path.name)
    grown.build()
    assert grown.files() == grown.from_nothing()


def test_a_tar_that_nothing_proves_to_be_ours_is_kept_and_not_in_the_index(grown: Growing) -> None:
    foreign = grown.out / f"shard-{0:016x}.tar"
    foreign.write_text("precious")
    grown.build()
    assert foreign.read_text() == "precious"
    foreign.unlink()
    assert grown.files() == grown.from_nothing()


def test_the_state_forgets_what_is_gone(grown: Growing) -> None:
    (path,) = state_files(grown)
    sources = {json.loads(line)[1] for line in path.read_text().splitlines() if "source" in line}
    assert sources == {*GROWN, "bad.mp4"}
    shards = {json.loads(line)[1] for line in path.read_text().splitlines() if "shard-" in line}
    assert shards == {tar.name for tar in grown.out.glob("shard-*.tar")}
