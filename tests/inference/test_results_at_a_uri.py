"""``evaluate`` and ``propagate`` into a folder at a URI: the results and the rules of a local
one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cluster.demo.render import render_evaluation_set
from corrfractal.common.errors import CallError
from corrfractal.files import storage
from corrfractal.files.lease import OWNER
from corrfractal.files.working_copy import working_copy
from inference.cli import propagate
from inference.evaluate import evaluate_davis

# Writes recorded files one after another, until it is killed.
ENDLESS = """
import itertools, sys, time
from corrfractal.files import lease, mirror
from corrfractal.files.working_copy import working_copy
from corrfractal.files.written_files import Written
mirror.SYNC_SECONDS, lease.SECONDS = 0.05, 1.0
with working_copy(sys.argv[1], "test") as copy:
    written = Written(copy.folder / "written.jsonl")
    for number in itertools.count():
        written.write(copy.folder / f"{number:05}.png", str(number).encode())
        time.sleep(0.02)
"""


@pytest.fixture
def place(s3: str, tmp_path: Path) -> str:
    return f"{s3}/{tmp_path.name}/out"


def contents(place: str) -> dict[str, bytes]:
    """The files of a folder but those that name places, processes or times."""
    names = storage.names_below(place) - {OWNER, "report.html", "propagation.json", "scores.json"}
    kept = {name for name in names if not name.startswith(("sequences/", "written"))}
    kept = {name for name in kept if not name.endswith(".written.jsonl")}
    return {name: storage.read(storage.join(place, name)) for name in kept}


def local_contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")
    }


def test_an_evaluation_has_the_same_results_resumes_and_replaces_nothing_of_others(
    place: str, tmp_path: Path, ray_session: None
) -> None:
    data = tmp_path / "davis"
    render_evaluation_set(data, sequences=2, frames=4, size=(64, 80))
    local = evaluate_davis(data, tmp_path / "local", "baseline:copy", workers=2)
    remote = evaluate_davis(data, place, "baseline:copy", workers=2)
    assert (remote.JF, remote.mean("J"), remote.out) == (local.JF, local.mean("J"), place)
    assert contents(place) == local_contents(tmp_path / "local")
    scores = json.loads(storage.read(f"{place}/scores.json"))
    assert scores["JF"] == pytest.approx(local.JF)
    assert b"written by corrfractal, sha256" in storage.read(f"{place}/report.html")

    # Only the sequence whose mask was damaged is made again.
    masks = sorted(name for name in contents(place) if name.endswith("00001.png"))
    before = {name: storage.file_fact(f"{place}/{name}") for name in storage.names_below(place)}
    evaluate_davis(data, place, "baseline:copy", workers=2)
    after = {name: storage.file_fact(f"{place}/{name}") for name in storage.names_below(place)}
    same = {name for name in before if name.startswith(("masks/", "sequences/"))}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}

    storage.write(f"{place}/{masks[0]}", b"edited by hand")
    with pytest.raises(CallError, match=f"^{place}/{masks[0]} exists, and is not what this"):
        evaluate_davis(data, place, "baseline:copy", workers=2)
    assert storage.read(f"{place}/{masks[0]}") == b"edited by hand"
    evaluate_davis(data, place, "baseline:copy", workers=2, overwrite=True)
    assert contents(place) == local_contents(tmp_path / "local")


def test_a_propagation_has_the_same_masks_resumes_and_removes_only_its_own(
    place: str, tmp_path: Path, tiny_video: Path
) -> None:
    mask = np.zeros((160, 192), np.uint8)
    mask[40:80, 50:90] = 1
    Image.fromarray(mask).save(tmp_path / "first.png")

    def call(out: str, *more: str) -> dict[str, object]:
        arguments = [str(tiny_video), "--out", out, "--model", "baseline:copy", *more]
        done = CliRunner().invoke(propagate, arguments)
        assert done.exit_code == 0, done.output
        return json.loads(storage.read(storage.join(out, "propagation.json")))

    given = ("--mask", str(tmp_path / "first.png"))
    call(str(tmp_path / "local"), *given)
    first = call(place, *given, "--video", f"{place}/overlay.mp4")
    assert (first["masks"], first["overlay"]) == (place, f"{place}/overlay.mp4")
    remote = contents(place)
    assert remote.pop("overlay.mp4")
    assert remote == local_contents(tmp_path / "local")
    again = call(place, *given)
    assert again["kept"] == again["frames"] == 24

    # Another prompt: the old masks are replaced. A file of the user stays, and is in the way.
    call(place, "--box", "2,60,50,100,90")
    assert set(contents(place)) == {*remote, "overlay.mp4"}
    storage.write(f"{place}/notes.png", b"mine")
    done = CliRunner().invoke(propagate, [str(tiny_video), "--out", place, *given])
    assert done.exit_code == 2
    assert f"{place}/notes.png exists, and is not what this command wrote" in done.output
    assert storage.read(f"{place}/notes.png") == b"mine"
    elsewhere = [str(tiny_video), "--out", place, *given, "--video", "s3://bucket/other.mp4"]
    assert "is not inside --out" in CliRunner().invoke(propagate, elsewhere).output


def test_every_file_of_a_killed_command_is_known_as_its_own(place: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, place])
    while len(storage.names_below(place)) < 14:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    from corrfractal.files.written_files import Written

    with working_copy(place, "test") as copy:
        written = Written(copy.folder / "written.jsonl")
        files = sorted(copy.folder.glob("*.png"))
        assert len(files) >= 10
        assert all(written.owns(file) for file in files)
