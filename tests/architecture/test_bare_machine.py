"""What runs on a machine with a GPU and little else needs neither ray, mlflow, decord, faiss nor
numba. ``tests/training/test_local.py`` shows it for ``training.local``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from tests.bare_machine import ABSENT, bare_environment

ROOT = Path(__file__).parents[2]


def test_a_bare_machine_has_none_of_these_packages(tmp_path: Path) -> None:
    for name in ABSENT:
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"],
            env=bare_environment(tmp_path / "bare"),
            capture_output=True,
            text=True,
        )
        assert f"No module named '{name}' on a bare machine" in done.stderr


def test_the_gpu_tests_run_there_and_fail_where_a_required_gpu_is_missing(tmp_path: Path) -> None:
    environment = bare_environment(tmp_path / "bare") | {"CORRFRACTAL_REQUIRE_GPU": "1"}
    call = [sys.executable, "-m", "pytest", "--confcutdir=tests/gpu", "tests/gpu", "-q"]
    done = subprocess.run(
        # All modules are imported, those of labels are run.
        [*call, "-p", "no:cacheprovider", "-k", "test_labels"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if torch.cuda.is_available():
        assert done.returncode == 0, done.stdout
    else:
        assert done.returncode == 1, done.stdout
        assert "3 passed" in done.stdout
        assert "3 errors" in done.stdout
        assert "CORRFRACTAL_REQUIRE_GPU=1, and PyTorch finds no GPU" in done.stdout


def test_the_benchmark_of_gpus_runs_there_in_small_form(tmp_path: Path) -> None:
    sections = ("training", "attention", "inference", "labels")
    call = [sys.executable, "-m", "benchmarks.gpu", "--small", "--out", str(tmp_path / "out")]
    for name in sections:
        call += ["--section", name]
    environment = bare_environment(tmp_path / "bare") | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert tuple(report["sections"]) == sections
    assert report["small"]
    rows = [row for section in report["sections"].values() for row in section]
    assert len(rows) >= 15
    assert all(row["s"] > 0 and f"| {row['s']:.4g} |" in done.stdout for row in rows)
    assert all(row["samples/s"] > 0 for row in report["sections"]["training"])
    # It ends in time: what has not been measured says so.
    late = [*call[:6], "--section", "attention", "--minutes", "0"]
    done = subprocess.run(late, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [row["note"] for row in report["sections"]["attention"]] == ["no time left"] * 8
