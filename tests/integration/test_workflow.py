"""From videos to a scored, registered model with the real command, whose driver is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cluster.demo.render import render_evaluation_set, render_training_videos
from corrfractal import CorrFractal
from tests.tracking_server import TrackingServer

CONFIG = """
sources = ["videos"]
out = "out"
workers = 2

[precompute]
size = 64
videos_per_shard = 2
[precompute.clip]
fps = 12.0
hop = 4

[training]
profile = "cpu"
steps = 60
crop = 48
batch_size = 2
checkpoint_every = 3
log_every = 3
[training.network]
width = 4
embedding_channels = 8

[evaluation]
data = "davis"
fast = true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workflow")
    render_training_videos(folder / "videos", count=3, frames=20, size=(64, 80))
    render_evaluation_set(folder / "davis", sequences=1, frames=5, size=(64, 80))
    (folder / "workflow.toml").write_text(CONFIG)
    return folder


@pytest.fixture
def secrets(tracking_server: TrackingServer) -> Iterator[dict[str, str]]:
    """Environment variables with every kind of secret, and a temporary folder for Ray."""
    with TemporaryDirectory(prefix="ray-") as ray_files:  # a short path, for Ray's sockets
        yield {
            "MLFLOW_TRACKING_URI": f"http://ann:SECRET-in-the-uri@{tracking_server.address}",
            "MLFLOW_TRACKING_USERNAME": "ann",
            "MLFLOW_TRACKING_PASSWORD": "SECRET-of-mlflow",
            "AWS_ACCESS_KEY_ID": "SECRET-key",
            "AWS_SECRET_ACCESS_KEY": "SECRET-of-the-object-store",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "SECRET-token-of-the-cluster",
            "RAY_TMPDIR": ray_files,
        }


def corrfractal(folder: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    }
    return subprocess.Popen(
        [sys.executable, "-m", "corrfractal", *arguments],
        cwd=folder,
        env={**environment, **settings},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_a_workflow_resumes_after_a_killed_driver_registers_a_model_and_leaks_no_secret(
    folder: Path, secrets: dict[str, str], tracking_server: TrackingServer
) -> None:
    out = folder / "out"
    driver = corrfractal(folder, "run", "workflow.toml", **secrets)
    while not list((out / "training" / "checkpoints").glob("step-*.json")):
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert not (out / "training" / "result.json").exists(), (
        "training ended before the driver could be killed"
    )

    again = corrfractal(folder, "run", "workflow.toml", "--json", **secrets)
    stdout, stderr = again.communicate(timeout=600)
    assert again.returncode == 0, stderr
    assert "resuming from checkpoints/step-" in stderr
    result = json.loads(stdout)
    assert result["steps"] == 60
    assert set(result["scores"]) == {"model", "starter", "colour", "untrained", "copy"}
    assert 0 <= result["scores"]["model"]["JF"] <= 1
    assert (
        result["shards_digest"]
        == json.loads((out / "shards" / "manifest.json").read_text())["digest"]
    )
    lines = [
        json.loads(line)["step"]
        for line in (out / "training" / "metrics.jsonl").read_text().splitlines()
    ]
    assert lines == list(range(3, 61, 3))
    CorrFractal.load(result["model_file"])

    report = (out / "report.html").read_text()
    assert "copy the first mask" in report
    assert "http://" not in report.replace("http://www.w3.org", "").replace(
        result["tracking_uri"], ""
    )

    assert "SECRET-" not in stdout + stderr
    written = [
        file
        for top in (folder, tracking_server.folder, secrets["RAY_TMPDIR"])
        for file in files(Path(top))
    ]
    assert {"job.json", "metrics.jsonl", "manifest.json", "report.html", "server.db"} <= {
        file.name for file in written
    }
    assert [file for file in written if b"SECRET-" in file.read_bytes()] == []

    store = ("--json", "--tracking-uri", result["tracking_uri"])
    moved = json.loads(
        corrfractal(folder, "models", "promote", "candidate", *store).communicate(timeout=120)[0]
    )
    assert moved["model"] == result["model"] == "models:/corrfractal/1"
    assert moved["move"]["scores"]["own"]["J"] == result["scores"]["model"]["J"]
    origin = json.loads(
        corrfractal(folder, "lineage", "champion", *store).communicate(timeout=120)[0]
    )
    assert origin["data"]["digest"] == result["shards_digest"]
    assert len(origin["data"]["videos"]) == 3


def files(folder: Path) -> Iterator[Path]:
    """All regular files below a folder."""
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("precompute", "nowhere", "--out", "x"), 2, "nowhere"),
        (("precompute", "empty", "--out", "x"), 2, "empty"),
        (("precompute", "text.mp4", "--out", "x"), 1, "text.mp4"),
        (("train", "nowhere", "--out", "x"), 2, "nowhere"),
        (
            (
                "propagate",
                "none.mp4",
                "--mask",
                "mask.png",
                "--out",
                "x",
                "--model",
                "baseline:copy",
            ),
            2,
            "none.mp4",
        ),
        (
            (
                "propagate",
                "text.mp4",
                "--mask",
                "mask.png",
                "--out",
                "x",
                "--model",
                "baseline:copy",
            ),
            1,
            "text.mp4",
        ),
        (
            (
                "propagate",
                "video.mp4",
                "--mask",
                "mask.png",
                "--out",
                "x",
                "--model",
                "baseline:copy",
            ),
            2,
            "mask.png",
        ),
        (
            ("propagate", "video.mp4", "--mask", "good.png", "--out", "x", "--model", "none"),
            2,
            "no such model",
        ),
        (
            ("evaluate", "davis", "--data", "empty", "--model", "baseline:copy", "--out", "x"),
            2,
            "empty",
        ),
        (("models", "show", "candidate"), 2, "mlflow.db"),
        (("run", "none.toml"), 2, "none.toml"),
        (("run", "wrong.toml"), 2, "sources"),
    ],
)
def test_a_bad_call_is_one_plain_sentence(
    arguments: tuple[str, ...], code: int, said: str, folder: Path, tmp_path: Path
) -> None:
    from PIL import Image

    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    (tmp_path / "wrong.toml").write_text('out = "x"\n')
    (tmp_path / "video.mp4").write_bytes((folder / "videos" / "train-00.mp4").read_bytes())
    Image.new("L", (7, 5), 1).save(tmp_path / "mask.png")
    Image.new("L", (80, 64), 1).save(tmp_path / "good.png")
    process = corrfractal(tmp_path, *arguments)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert "Traceback" not in stdout + stderr
    error = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert said in error[0]
