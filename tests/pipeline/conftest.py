"""Tiny real videos, intact and damaged, and a configuration that builds small shards quickly."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from corrfractal.labels.quantization import QuantizationConfig
from corrfractal.video import write_video
from pipeline.config import PipelineConfig
from tests.local_build import build_shards


@pytest.fixture(scope="session")
def config() -> PipelineConfig:
    return PipelineConfig(
        size=32, videos_per_shard=2, quantization=QuantizationConfig(fit_pixels=512, iterations=5)
    )


@pytest.fixture(scope="session")
def master(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_video: Path,
    moving_frames: np.ndarray,
    swaying_frames,
) -> Path:
    """good.mp4 (1 clip), sub/long.mkv (2 clips), cut.mkv (long.mkv's first part), cut.mp4,
    text.mp4, short.mp4."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    shutil.copy(tiny_video, folder / "good.mp4")
    write_video(folder / "sub" / "long.mkv", swaying_frames(60), fps=24)
    write_video(folder / "short.mp4", moving_frames[:5], fps=24)
    complete = (folder / "sub" / "long.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(complete[: len(complete) * 7 // 10])
    (folder / "cut.mp4").write_bytes(tiny_video.read_bytes()[:5000])
    (folder / "text.mp4").write_text("this is no video\n" * 20)
    return folder


@pytest.fixture
def videos(master: Path, tmp_path: Path) -> Path:
    """A copy of ``master`` that a test may change."""
    return Path(shutil.copytree(master, tmp_path / "videos"))


@pytest.fixture(scope="session")
def made_shards(
    master: Path, config: PipelineConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder ``shards`` of ``master``: 4 clips, built in this process. Read-only."""
    out = tmp_path_factory.mktemp("made") / "shards"
    build_shards([master], out, config)
    return out
