"""The examples run as they are, and the outputs in the notebook are those of its code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from corrfractal.labels.quantization import QuantizationConfig
from pipeline.config import PipelineConfig
from tests.local_build import build_shards

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"

# Sockets are files of the user: others could connect to a port.
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

notebook = nbformat.read(sys.argv[1], 4)
config = Config({"KernelManager": {"transport": "ipc"}})
NotebookClient(notebook, kernel_name="python3", timeout=600, config=config).execute()
nbformat.write(notebook, sys.argv[2])
"""


def _outputs(notebook: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Of each code cell: what it printed, digits replaced, and the kinds of its other outputs."""
    found = []
    for cell in notebook["cells"]:
        outputs = cell.get("outputs", [])
        # A kernel sends a text in any number of pieces.
        printed = "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream")
        kinds = [kind for o in outputs for kind in sorted(o.get("data", {}))]
        found.append((re.sub(r"\d+", "0", printed), kinds))
    return found


def _printed_scores(notebook: dict[str, Any]) -> list[int]:
    text = json.dumps([cell.get("outputs") for cell in notebook["cells"]])
    return [int(value) for value in re.findall(r"J = (\d+)%", text)]


def test_the_notebook_runs_and_its_stored_outputs_are_those_of_its_code(tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="needs the extra notebook")
    stored = json.loads(NOTEBOOK.read_text("utf-8"))
    assert "image/jpeg" in str(_outputs(stored))

    command = [sys.executable, "-c", EXECUTE, str(NOTEBOOK), "executed.ipynb"]
    # More threads than free cores wait for each other: four times the processor time.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    executed = json.loads((tmp_path / "executed.ipynb").read_text("utf-8"))

    assert _outputs(executed) == _outputs(stored)
    # Object 1 and 2, then both again after the correction, which improves both.
    scores = _printed_scores(executed)
    assert scores == pytest.approx(_printed_scores(stored), abs=3)
    assert scores[2] > scores[0] > 60
    assert scores[3] > scores[1] > 50


def test_another_network_learns_from_shards_through_webdataset(
    tmp_path: Path, moving_frames: np.ndarray
) -> None:
    from corrfractal.video import write_video

    for index in range(4):
        write_video(tmp_path / f"{index}.mp4", moving_frames[:, :, index * 8 :], fps=24)
    quick = QuantizationConfig(fit_pixels=512, iterations=5)
    config = PipelineConfig(size=64, quantization=quick)
    build_shards([tmp_path], tmp_path / "shards", config)

    script = [sys.executable, str(EXAMPLES / "other_training.py"), str(tmp_path / "shards"), "20"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=True)

    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", done.stdout)]
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]
    with Image.open(tmp_path / "other_training.png") as picture:
        assert picture.size == (4 * 64, 64)
