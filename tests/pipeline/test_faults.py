"""After a kill or a full disk the same call resumes and ends in the same bytes."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from corrfractal.common.errors import CorrFractalError
from corrfractal.video import write_video
from pipeline.run import precompute


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, 200 kB large, and a function that changes its size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "corrfractal-test", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system, to fill it")
    yield (
        disk,
        lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True),
    )
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".state"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_killed_workers_nodes_and_drivers_change_no_byte(tmp_path, swaying_frames):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(8):
        write_video(videos / f"{number}.mp4", swaying_frames(72 + number), fps=24)
    config = tmp_path / "c.toml"
    config.write_text("[precompute]\nsize = 96\nvideos_per_shard = 1\n")
    script = Path(__file__).parents[2] / "benchmarks" / "faults" / "build_faults.py"
    options = ["--kills", "3", "--seed", "3", "--longest", "2", "--config", config]
    done = subprocess.run(
        [sys.executable, script, videos, *options], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 1 workers, 1 nodes, 1 drivers: every file the same" in done.stdout


@pytest.mark.usefixtures("ray_session")
def test_a_full_disk_fails_the_run_loses_nothing_and_the_same_call_resumes(
    master, config, tmp_path, small_disk
):
    disk, resize = small_disk
    config = dataclasses.replace(config, size=96)
    undisturbed = precompute([str(master)], tmp_path / "out", config, workers=2)
    with pytest.raises((CorrFractalError, OSError), match="No space left on device"):
        precompute([str(master)], disk / "out", config, workers=2)
    assert not (disk / "out" / "manifest.json").exists()
    resize("20m")
    result = precompute([str(master)], disk / "out", config, workers=2)
    assert (result.digest, result.quarantined) == (undisturbed.digest, undisturbed.quarantined)
    assert contents(disk / "out") == contents(tmp_path / "out")
