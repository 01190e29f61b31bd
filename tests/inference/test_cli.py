"""Commands print one JSON object with --json, and exit codes without a traceback for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from corrfractal.__main__ import main
from inference.prompts.mask_images import read_mask, write_mask


def corrfractal(*args: object) -> Result:
    """Run a command in this process: importing PyTorch again takes longer than the test."""
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, inference.cli, inference.evaluate_cli; "
        "heavy = {'torch', 'numpy', 'cv2', 'ray', 'mlflow', 'pydantic'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_score_prints_one_json_object(davis: Path) -> None:
    masks = davis / "Annotations" / "480p"
    call = ["score", "davis", "--data", str(davis), "--masks", str(masks), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "corrfractal", *call], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["JF"] == 1.0


def test_propagate_prints_a_summary(tiny_video: Path, first_mask: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    done = corrfractal(
        "propagate", tiny_video, "--mask", first_mask, "--out", out, "--model", "baseline:copy"
    )
    assert done.exit_code == 0
    assert f"24 masks of object 1, 3 in {out}" in done.output


@pytest.mark.parametrize(
    ("mask", "said"),
    [("small.png", "is 20x10 but its frame is 192x160"), ("none.png", "no such mask")],
)
def test_a_bad_mask_is_one_sentence_and_exit_code_2(
    tiny_video: Path, tmp_path: Path, mask: str, said: str
) -> None:
    write_mask(tmp_path / "small.png", np.ones((10, 20), dtype=np.uint8))
    done = corrfractal(
        "propagate", tiny_video, "--mask", tmp_path / mask, "--out", tmp_path / "out"
    )
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_missing_data_set_is_exit_code_2(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = corrfractal(
        "evaluate", "davis", "--data", tmp_path, "--model", "baseline:copy", "--out", out
    )
    assert done.exit_code == 2
    assert f"the folder {tmp_path}/JPEGImages/480p does not exist" in done.output
    assert "Traceback" not in done.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "folder"),
    [("youtubevos", "valid/JPEGImages"), ("jhmdb", "Rename_Images"), ("vip", "Images")],
)
def test_a_folder_without_the_data_set_is_exit_code_2_for_every_benchmark(
    tmp_path: Path, name: str, folder: str
) -> None:
    done = corrfractal(
        "evaluate", name, "--data", tmp_path, "--model", "baseline:copy", "--out", tmp_path / "out"
    )
    assert done.exit_code == 2
    assert f"the folder {tmp_path}/{folder} does not exist" in done.output
    assert not (tmp_path / "out").exists()


def test_parts_are_scored_from_the_command_line(vip: Path) -> None:
    masks = vip / "Annotations" / "Category_ids" / "videos7"
    for path in masks.iterdir():
        mask = read_mask(path)
        write_mask(path, np.where(mask == 255, np.uint8(0), mask))
    done = corrfractal("score", "vip", "--data", vip, "--masks", masks.parent)
    assert done.exit_code == 0, done.output
    assert "mIoU_predicted  1.0000" in done.output
