"""No call writes over, into or around what it reads; no file of somebody else is replaced or
deleted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cluster.demo.render import write_sequence
from corrfractal.__main__ import main
from corrfractal.common.errors import CallError
from corrfractal.files.output_guard import refuse_foreign_page, refuse_overlap, write_page
from corrfractal.files.written_files import Written
from inference.prompts.mask_images import write_mask
from pipeline.store.prepare import PLAN
from training.state.checkpoint import Checkpoint, save_checkpoint

COPY = ("--model", "baseline:copy")


def corrfractal(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture
def user(tiny_video: Path, moving_frames: np.ndarray, tmp_path: Path) -> Path:
    """The user's folder: a video, a folder of frames, masks, key points, a folder of videos and a
    list of them."""
    root = tmp_path / "user"
    for name in ("fr", "mm", "videos"):
        (root / name).mkdir(parents=True)
    for name in ("v.mp4", "holiday.mp4", "videos/a.mp4", "videos/b.mp4"):
        shutil.copy(tiny_video, root / name)
    os.link(root / "v.mp4", root / "hard.mp4")
    (root / "soft.mp4").symlink_to("v.mp4")
    (root / "frames_link").symlink_to("fr")
    for t in range(4):
        cv2.imwrite(str(root / "fr" / f"{t:05d}.png"), moving_frames[t])
    mask = np.zeros((160, 192), dtype=np.uint8)
    mask[30:60, 60:85] = 1
    for name in ("m.png", "mm/00002.png", "a.png", "b.png"):
        write_mask(root / name, mask)
    (root / "points.csv").write_text("id,x,y\nhead,70,40\n")
    (root / "list.txt").write_text("videos/a.mp4\n")
    return root


@pytest.fixture
def davis(moving_frames: np.ndarray, tmp_path: Path) -> Path:
    """A data set of one sequence in the layout of DAVIS-2017."""
    root = tmp_path / "data" / "davis"
    mask = np.zeros((160, 192), dtype=np.uint8)
    mask[30:60, 60:85] = 1
    write_sequence(root, "one", [(frame, mask) for frame in moving_frames[:3]])
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("one\n")
    return root


REFUSED = [
    ("v.mp4", "--mask m.png --out o --video v.mp4"),
    ("v.mp4", "--mask m.png --out o --video ./fr/../v.mp4"),
    ("v.mp4", "--mask m.png --out o --video hard.mp4"),
    ("v.mp4", "--mask m.png --out o --contours soft.mp4"),
    ("soft.mp4", "--mask m.png --out o --video v.mp4"),
    ("v.mp4", "--mask m.png --out ."),
    ("fr", "--mask m.png --out fr"),
    ("fr", "--mask m.png --out frames_link/new/deep"),
    ("fr", "--mask m.png --out o --cutout fr"),
    ("fr", "--mask m.png --out o --cutout frames_link"),
    ("fr", "--box 1,20,60,80,120 --out fr"),
    ("fr", "--box 1,20,60,80,120 --out fr --overwrite"),
    ("v.mp4", "--mask mm --out mm"),
    ("v.mp4", "--mask 2:mm/00002.png --out mm"),
    ("v.mp4", "--mask mm --out mm/out"),
    ("v.mp4", "--mask m.png --out o --video x.mp4 --contours x.mp4"),
    ("v.mp4", "--mask m.png --out o --cutout o"),
    ("v.mp4", "--mask m.png --out o --probabilities --cutout o/probabilities"),
    ("v.mp4", "--mask m.png --out o --video holiday.mp4"),
    ("v.mp4", "--mask m.png --out m.png"),
    ("v.mp4", "--points points.csv --out ."),
    ("videos", "--mask mm --out videos"),
    ("videos", "--mask mm --out o --video videos"),
    ("videos", "--mask mm --out o --video o2 --contours o2"),
    ("list.txt", "--mask mm --out videos"),
    ("list.txt", "--mask mm --out o --cutout ."),
]


@pytest.mark.parametrize(("video", "options"), REFUSED)
def test_propagate_refuses_outputs_that_touch_inputs_before_it_writes(
    user: Path, monkeypatch: pytest.MonkeyPatch, video: str, options: str
) -> None:
    monkeypatch.chdir(user)
    before = contents(user)
    done = corrfractal("propagate", video, *options.split(), *COPY)
    assert done.exit_code == 2, done.output
    assert len(done.output.strip().splitlines()) == 1
    assert contents(user) == before
    assert not (user / "o").exists()


def test_outputs_beside_their_inputs_are_fine(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user)
    before = contents(user)
    call = (
        "propagate",
        "fr",
        "--mask",
        "m.png",
        "--out",
        "o",
        "--video",
        "x.mp4",
        "--cutout",
        "o/cut",
        *COPY,
    )
    assert corrfractal(*call).exit_code == 0
    again = corrfractal(*call)
    assert again.exit_code == 0, again.output
    assert "4 of them kept" in again.output
    after = contents(user)
    assert {name: after[name] for name in before} == before
    assert len(list((user / "o" / "cut").iterdir())) == 4


def test_other_commands_refuse_outputs_that_touch_inputs(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(user)
    (user / "flow.toml").write_text('sources = ["shards/v.mp4"]\nout = "."\n')
    (user / "shards").mkdir()
    shutil.copy("v.mp4", "shards")
    before = contents(user)
    for call in (
        ("precompute", "videos", "--out", "videos"),
        ("precompute", "videos", "--out", "videos/shards"),
        ("precompute", f"file://{user}/videos", "--out", "videos/shards"),
        ("precompute", "videos/*.mp4", "--out", "videos"),
        ("precompute", "list.txt", "--out", "."),
        ("precompute", "s3a://bucket//videos/", "--out", "s3://bucket/videos"),
        ("plan", "v.mp4", "--out", "v.mp4"),
        ("plan", "videos", "--out", "videos/plan.json"),
        ("plan", "videos", "--out", "holiday.mp4"),
        ("inspect", "videos", "--html", "videos/sheet.html"),
        ("inspect", "videos", "--html", "holiday.mp4"),
        ("train", "videos", "--out", "videos/run"),
        ("demo", "--out", "."),
        ("run", "flow.toml"),
    ):
        done = corrfractal(*call)
        assert done.exit_code == 2, (call, done.output)
        assert contents(user) == before, call


def test_what_a_call_may_write_is_decided_by_place_not_by_spelling(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    for out, given in (
        ("s3://bucket/videos/x", "s3a://bucket//videos/"),
        ("gcs://b/x/", "gs://b/x"),
        (f"file://{inside}", str(inside)),
        (f"{tmp_path}/in/../in/.", inside),
    ):
        with pytest.raises(CallError, match=r"--out .* (is|is inside|contains) the input"):
            refuse_overlap({"--out": out}, [given])
    refuse_overlap(
        {"--out": "s3://bucket/shards"}, ["s3://bucket/videos", inside, tmp_path / "no such file"]
    )
    refuse_overlap({"--out": tmp_path / "in2"}, [inside])


def test_an_evaluation_refuses_to_write_into_its_data_set(davis: Path) -> None:
    before = contents(davis)
    for out in (davis, davis / "results", davis.parent):
        done = corrfractal("evaluate", "davis", "--data", davis, "--out", out, *COPY)
        assert done.exit_code == 2, done.output
        assert "the input" in done.output
    assert contents(davis) == before


def test_a_result_that_was_edited_is_not_deleted_and_own_ones_are_replaced(
    user: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    call = ("propagate", user / "fr", "--out", out, "--video", tmp_path / "x.mp4", *COPY)
    assert corrfractal(*call, "--box", "1,20,60,80,120").exit_code == 0
    assert corrfractal(*call, "--box", "1,20,60,90,120").exit_code == 0
    edited = out / "00002.png"
    write_mask(edited, np.full((160, 192), 7, dtype=np.uint8))
    before = contents(out)
    done = corrfractal(*call, "--box", "1,20,60,70,120")
    assert done.exit_code == 2
    assert f"{edited} exists, and is not what this command wrote" in done.output
    assert contents(out) == before
    assert corrfractal(*call, "--box", "1,20,60,70,120", "--overwrite").exit_code == 0
    assert contents(out)["00002.png"] == contents(out)["00001.png"]


def test_a_note_knows_its_files_by_their_hash_and_survives_a_torn_line(tmp_path: Path) -> None:
    written = Written(tmp_path / "note.jsonl")
    for name in ("kept", "edited", "sub/gone"):
        written.write(tmp_path / name, name.encode())
    with (tmp_path / "note.jsonl").open("a") as note:
        note.write('{"path": "half')
    (tmp_path / "edited").write_text("by the user")
    again = Written(tmp_path / "note.jsonl")
    again.write(tmp_path / "later", b"later")
    again = Written(tmp_path / "note.jsonl")
    assert [again.owns(tmp_path / n) for n in ("kept", "edited", "later", "note.jsonl")] == [
        True,
        False,
        True,
        False,
    ]
    assert again.clear() == [tmp_path / "edited"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edited", "note.jsonl"]


def test_a_page_is_replaced_only_while_it_is_as_written(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    refuse_foreign_page(page)
    write_page(page, "<p>one</p>")
    refuse_foreign_page(page)
    page.write_text(page.read_text().replace("one", "mine"))
    with pytest.raises(CallError, match=r"page\.html exists"):
        refuse_foreign_page(page)
    refuse_foreign_page(page, overwrite=True)


def test_precompute_takes_no_plan_or_manifest_of_others_for_its_own(
    user: Path, tmp_path: Path
) -> None:
    for name in (PLAN, "manifest.json", "quarantine.jsonl", "shard-000007.json"):
        out = tmp_path / "out" / name
        out.mkdir(parents=True)
        (out / name).write_text('{"mine": 1}')
        done = corrfractal("precompute", user / "videos", "--out", out)
        assert done.exit_code == 2, done.output
        assert contents(out) == {name: hashlib.sha256(b'{"mine": 1}').hexdigest()}


def test_a_copy_of_a_checkpoint_is_no_checkpoint_and_stays(tmp_path: Path) -> None:
    def save(step: int) -> None:
        facts = {
            "model": {},
            "optimizer": {},
            "shards_digest": "",
            "config_digest": "",
            "run_id": "",
        }
        save_checkpoint(tmp_path, Checkpoint(step=step, **facts), keep=1)

    save(1)
    shutil.copy(tmp_path / "step-00000001.pt", tmp_path / "step-best.pt")
    (tmp_path / "step-00000002.pt").write_bytes(b"of another program")
    (tmp_path / ".notes.tmp").write_text("mine")
    save(3)
    save(4)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        "step-00000002.pt", "step-00000004.pt", "step-best.pt",
    ]  # fmt: skip
    assert (tmp_path / ".notes.tmp").exists()
    assert json.loads((tmp_path / "step-00000004.json").read_text())["step"] == 4
