"""Only results that a note of ours names, with their contents, count as done; others are refused or
replaced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cluster.demo.render import write_sequence
from corrfractal.__main__ import main
from corrfractal.common.errors import CallError
from inference.benchmarks.davis import Davis
from inference.evaluate import evaluate_davis
from inference.prompts.mask_images import read_mask, write_mask

COPY = ("--model", "baseline:copy")


def corrfractal(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def frames(moving_frames: np.ndarray, tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for t in range(5):
        cv2.imwrite(str(folder / f"{t:05d}.png"), moving_frames[t])
    return folder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Masks of another program, in its folder."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for t in range(3):
        write_mask(folder / f"{t:05d}.png", np.full((160, 192), 9, dtype=np.uint8))
    return folder


def test_masks_of_another_program_are_refused_and_replaced_on_request(
    frames: Path, foreign: Path
) -> None:
    call = ("propagate", frames, "--box", "1,20,60,80,120", "--out", foreign, *COPY)
    done = corrfractal(*call)
    assert done.exit_code == 2
    assert f"{foreign}/00000.png exists, and is not what this command wrote" in done.output
    assert "--overwrite" in done.output
    assert sorted(path.name for path in foreign.iterdir()) == [
        "00000.png",
        "00001.png",
        "00002.png",
    ]
    done = corrfractal(*call, "--overwrite")
    assert done.exit_code == 0, done.output
    assert "kept" not in done.output
    assert all(set(np.unique(read_mask(foreign / f"{t:05d}.png"))) == {0, 1} for t in range(5))
    assert "5 of them kept" in corrfractal(*call).output


def test_the_fields_masks_of_another_program_are_refused(data_dir: Path, tmp_path: Path) -> None:
    out = shutil.copytree(data_dir / "field" / "foreign-masks" / "out", tmp_path / "out")
    video, mask = (data_dir / "field" / "input-destroyed" / name for name in ("v.mp4", "m.png"))
    done = corrfractal("propagate", video, "--mask", mask, "--out", out, *COPY)
    assert done.exit_code == 2, done.output
    assert "exists, and is not what this command wrote" in done.output


def test_a_note_of_another_call_keeps_nothing(
    frames: Path, foreign: Path, moving_frames: np.ndarray
) -> None:
    (foreign / "propagation.json").write_text('{"digest": "0", "frames": 3}')
    done = corrfractal("propagate", frames, "--box", "1,20,60,80,120", "--out", foreign, *COPY)
    assert done.exit_code == 2
    assert len(list(foreign.glob("*.png"))) == 3


def test_a_frame_that_changed_at_the_same_size_starts_anew(frames: Path, tmp_path: Path) -> None:
    for path in frames.iterdir():
        cv2.imwrite(str(path.with_suffix(".bmp")), cv2.imread(str(path)))
        path.unlink()
    call = ("propagate", frames, "--box", "1,20,60,80,120", "--out", tmp_path / "out", *COPY)
    assert corrfractal(*call).exit_code == 0
    shutil.copy(frames / "00003.bmp", frames / "00001.bmp")
    done = corrfractal(*call)
    assert done.exit_code == 0
    assert "kept" not in done.output


@pytest.fixture
def davis(moving_frames: np.ndarray, tmp_path: Path) -> Path:
    root = tmp_path / "davis"
    mask = np.zeros((160, 192), dtype=np.uint8)
    mask[30:60, 60:85] = 1
    for name in ("one", "two"):
        write_sequence(root, name, [(frame, mask) for frame in moving_frames[:3]])
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("one\ntwo\n")
    return root


def test_an_evaluation_believes_no_prediction_that_it_did_not_write(
    ray_session: None, davis: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    foreign = out / "masks" / "two" / "00001.png"
    foreign.parent.mkdir(parents=True)
    write_mask(foreign, np.full((160, 192), 1, dtype=np.uint8))
    before = foreign.read_bytes()
    with pytest.raises(CallError, match=r"00001\.png exists, and is not what this command wrote"):
        evaluate_davis(davis, out, "baseline:copy")
    assert [path for path in out.rglob("*") if path.is_file()] == [foreign]
    foreign.unlink()

    assert evaluate_davis(davis, out, "baseline:copy").mean("J") == 1.0
    result = out / "sequences" / "two.json"
    done = result.stat().st_mtime_ns
    evaluate_davis(davis, out, "baseline:copy")
    assert result.stat().st_mtime_ns == done
    foreign.write_bytes(before)
    with pytest.raises(CallError, match=r"00001\.png exists"):
        evaluate_davis(davis, out, "baseline:copy")
    evaluate_davis(davis, out, "baseline:copy", overwrite=True)
    assert result.stat().st_mtime_ns != done
    assert Davis(davis).score(out / "masks").mean("J") == 1.0


@pytest.mark.parametrize("name", ["scores.json", "report.html", "sequences/one.json"])
def test_files_of_others_in_a_folder_for_scores_are_refused(
    davis: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"J": 1.0}))
    done = corrfractal("evaluate", "davis", "--data", davis, "--out", tmp_path / "out", *COPY)
    assert done.exit_code == 2, done.output
    assert f"{path} exists, and is not what this command wrote" in done.output
    assert path.read_text() == json.dumps({"J": 1.0})
