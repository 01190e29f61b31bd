"""Folders of schema 3: clips are taken over, and every file is that of a build from nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from corrfractal.common.config import digest
from corrfractal.files import storage
from corrfractal.shards.manifest import Sidecar, load_manifest, read_sealed, seal, to_text
from pipeline.store import shard_task
from tests.pipeline.growing import Growing

BASE = {"a.mp4": 0, "b.mp4": 1, "c.mp4": 2, "d.mp4": 3, "sub/e.mp4": 4}


@pytest.fixture
def earlier(growing: Growing) -> Growing:
    """A folder as schema 3 stored it: numbered shards, everything in one manifest, no index."""
    growing.lay(BASE)
    growing.build()
    manifest = load_manifest(growing.out)
    for number, name in enumerate((growing.out / "urls.txt").read_text().split()):
        sidecar = read_sealed(growing.out / f"{name[:-4]}.json", Sidecar)
        numbered = f"shard-{number:06d}"
        old = seal(dataclasses.replace(sidecar, name=f"{numbered}.tar", spec="0" * 64))
        (growing.out / name).rename(growing.out / f"{numbered}.tar")
        (growing.out / f"{name[:-4]}.json").unlink()
        (growing.out / f"{numbered}.json").write_text(to_text(old))
    shutil.rmtree(growing.out / "index")
    shutil.rmtree(growing.out / ".state")
    (growing.out / "urls.txt").unlink()
    versions = {name: text for name, text in manifest.versions.items() if name != "numba"}
    values = {"schema": 3, "config": manifest.config, "versions": versions, "shards": []}
    for name in ("manifest.json", "plan.json"):
        (growing.out / name).write_text(json.dumps({**values, "digest": digest(values)}))
    return growing


def test_clips_of_unchanged_videos_are_copied_and_the_earlier_files_are_gone(
    earlier: Growing, capsys: pytest.CaptureFixture[str]
) -> None:
    result = earlier.build()
    assert result.copied == result.stored == 5
    assert "has schema 3: clips of unchanged videos are taken over" in capsys.readouterr().out
    assert earlier.files() == earlier.from_nothing()
    assert earlier.build().made == ()


def test_videos_that_changed_since_are_decoded(earlier: Growing) -> None:
    earlier.lay({**BASE, "b.mp4": 7, "new.mp4": 8})
    result = earlier.build()
    assert (result.copied, result.stored) == (4, 6)
    assert earlier.files() == earlier.from_nothing()


def test_clips_of_a_damaged_shard_are_decoded(earlier: Growing) -> None:
    tar = earlier.out / "shard-000000.tar"
    tar.write_bytes(b"flipped" + tar.read_bytes()[7:])
    result = earlier.build()
    assert 0 < result.copied < result.stored
    assert earlier.files() == earlier.from_nothing()


@pytest.mark.parametrize("what", ["configuration", "versions"])
def test_another_configuration_or_version_builds_all_again(
    earlier: Growing, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if what == "configuration":
        earlier.config = dataclasses.replace(earlier.config, seed=1)
    else:
        for name in ("manifest.json", "plan.json"):
            values = json.loads((earlier.out / name).read_text())
            del values["digest"]
            values["versions"]["av"] = "1.0"
            (earlier.out / name).write_text(json.dumps({**values, "digest": digest(values)}))
    assert earlier.build().copied == 0
    assert "all its shards are built again" in capsys.readouterr().out
    assert earlier.files() == earlier.from_nothing()


def test_a_killed_migration_goes_on_copying(
    earlier: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    puts = 0

    def failing(*arguments: object) -> None:
        nonlocal puts
        puts += 1
        if puts == 2:
            raise Killed
        real(*arguments)

    real = storage.put
    with monkeypatch.context() as patch:
        patch.setattr(shard_task.storage, "put", failing)
        with pytest.raises(Killed):
            earlier.build()
    result = earlier.build()
    assert result.copied == result.stored > 0
    assert earlier.files() == earlier.from_nothing()
