"""Masks are matched to frames by name, and results are named after their frames."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.__main__ import main
from inference.prompts.mask_images import read_mask, write_mask

COPY = ("--model", "baseline:copy")

# FFmpeg counts from 1; some frames were deleted.
NAMES = ["00001", "00002", "00003", "00005", "00010"]


def corrfractal(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def frames(moving_frames: np.ndarray, tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for t, name in enumerate(NAMES):
        cv2.imwrite(str(folder / f"{name}.jpg"), moving_frames[t][:80, :96])
    return folder


def box(value: int) -> np.ndarray:
    mask = np.zeros((80, 96), dtype=np.uint8)
    mask[20:50, 20:50] = value
    return mask


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.png"))


def test_a_mask_applies_to_the_frame_of_its_name_and_results_have_the_frames_names(
    frames: Path, tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    out = tmp_path / "out"
    masks.mkdir()
    write_mask(masks / "00001.png", box(1))
    write_mask(masks / "00005.png", box(2))
    done = corrfractal(
        "propagate", frames, "--mask", masks, "--out", out, "--cutout", tmp_path / "cut", *COPY
    )
    assert done.exit_code == 0, done.output
    assert stems(out) == stems(tmp_path / "cut") == NAMES
    found = {name: read_mask(out / f"{name}.png").max() for name in NAMES}
    assert found == {"00001": 1, "00002": 1, "00003": 1, "00005": 2, "00010": 2}


@pytest.mark.parametrize("frame", ["00005", "5"])
def test_a_frame_is_named_by_its_name_or_its_number(
    frames: Path, tmp_path: Path, frame: str
) -> None:
    write_mask(tmp_path / "m.png", box(3))
    for option in (
        ("--box", f"{frame}:3,20,20,50,50"),
        ("--mask", f"{frame}:{tmp_path / 'm.png'}"),
    ):
        out = tmp_path / option[0]
        assert corrfractal("propagate", frames, *option, "--out", out, *COPY).exit_code == 0
        note = json.loads((out / "propagation.json").read_text())
        assert note["frames"] == 5
        np.testing.assert_array_equal(read_mask(out / "00005.png"), box(3))


@pytest.mark.parametrize(
    "options",
    [
        ("--box", "0:1,20,20,50,50"),
        ("--box", "4:1,20,20,50,50"),
        ("--point", "frame:1,20,20"),
        ("--mask", "6:m.png"),
        ("--mask", "masks"),
        ("--points", "points.csv"),
    ],
)
def test_a_name_without_a_frame_is_an_error_that_quotes_it(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").mkdir()
    for name in ("m.png", "masks/00001.png", "masks/00004.png"):
        write_mask(tmp_path / name, box(1))
    (tmp_path / "points.csv").write_text("id,x,y,frame\nhead,30,30,4\n")
    done = corrfractal("propagate", frames, *options, "--out", "out", *COPY)
    assert done.exit_code == 2
    assert "no frame is called" in done.output
    assert "00001 to 00010" in done.output
    assert not (tmp_path / "out").exists()


def test_frames_may_have_any_names(frames: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(frames.iterdir())):
        path.rename(path.with_name(f"left: cam {number}.v2.jpg"))
    masks = tmp_path / "masks"
    masks.mkdir()
    write_mask(masks / "left: cam 2.v2.png", box(1))
    assert (
        corrfractal("propagate", frames, "--mask", masks, "--out", tmp_path / "a", *COPY).exit_code
        == 0
    )
    assert stems(tmp_path / "a") == [f"left: cam {number}.v2" for number in range(5)]
    given = ("--mask", f"left: cam 2.v2:{masks / 'left: cam 2.v2.png'}")
    assert corrfractal("propagate", frames, *given, "--out", tmp_path / "b", *COPY).exit_code == 0
    for number in range(5):
        name = f"left: cam {number}.v2.png"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_probabilities_and_points_have_the_frames_names(frames: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tmp_path / "model.safetensors"
    CorrFractal(CorrFractalConfig(width=4, embedding_channels=8)).save(model)
    for name in NAMES[3:]:
        (frames / f"{name}.jpg").unlink()
    call = ("propagate", frames, "--model", model, "--fast")
    done = corrfractal(
        *call, "--box", "2:1,20,20,50,50", "--out", tmp_path / "out", "--probabilities"
    )
    assert done.exit_code == 0, done.output
    assert stems(tmp_path / "out" / "probabilities" / "1") == NAMES[:3]
    (tmp_path / "points.csv").write_text('id,x,y,frame\n"head, left",30,30,00002\n')
    done = corrfractal(*call, "--points", tmp_path / "points.csv", "--out", tmp_path / "points")
    assert done.exit_code == 0, done.output
    with (tmp_path / "points" / "points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["id"]) for row in rows] == [
        (name, "head, left") for name in NAMES[:3]
    ]
    assert (float(rows[1]["x"]), float(rows[1]["y"])) == (30.0, 30.0)


def test_masks_of_many_frame_folders_are_matched_by_name(
    ray_session: None, frames: Path, tmp_path: Path
) -> None:
    for name in ("videos/one", "masks/one"):
        (tmp_path / name).mkdir(parents=True)
    for path in frames.iterdir():
        shutil.copy(path, tmp_path / "videos" / "one")
    write_mask(tmp_path / "masks" / "one" / "00003.png", box(4))
    out = tmp_path / "out"
    done = corrfractal(
        "propagate", tmp_path / "videos", "--mask", tmp_path / "masks", "--out", out, *COPY
    )
    assert done.exit_code == 0, done.output
    assert stems(out / "one") == NAMES
    np.testing.assert_array_equal(read_mask(out / "one" / "00003.png"), box(4))


def test_a_real_mask_is_applied_to_its_own_frame(data_dir: Path, tmp_path: Path) -> None:
    field = data_dir / "field" / "frame-names"
    done = corrfractal(
        "propagate", field / "frames", "--mask", field / "masks", "--out", tmp_path / "out", *COPY
    )
    assert done.exit_code == 0, done.output
    assert stems(tmp_path / "out") == [f"{t:05d}" for t in range(1, 7)]
    first = read_mask(tmp_path / "out" / "00001.png")
    np.testing.assert_array_equal(first > 0, read_mask(field / "masks" / "00001.png") > 0)


def test_the_frames_of_a_video_file_are_numbered_from_0(tiny_video: Path, tmp_path: Path) -> None:
    done = corrfractal(
        "propagate", tiny_video, "--box", "3:1,20,20,50,50", "--out", tmp_path / "out", *COPY
    )
    assert done.exit_code == 0, done.output
    assert stems(tmp_path / "out") == [f"{t:05d}" for t in range(24)]
    done = corrfractal(
        "propagate", tiny_video, "--box", "first:1,20,20,50,50", "--out", tmp_path / "no", *COPY
    )
    assert done.exit_code == 2
