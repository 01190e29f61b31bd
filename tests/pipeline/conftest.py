"""Tiny real videos, intact and damaged, and a configuration that builds small shards quickly."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from corrfractal.labels.quantization import QuantizationConfig
from corrfractal.video import write_video
from pipeline.config import ClipConfig, PipelineConfig
from tests.local_build import build_shards
from tests.pipeline.growing import Growing


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


@pytest.fixture(scope="session")
def video_pool(
    moving_frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, ...]:
    """Ten different videos of one clip each, as contents of files."""
    folder = tmp_path_factory.mktemp("pool")
    pool = []
    for number in range(10):
        path = folder / f"{number}.mp4"
        top = 8 * number
        write_video(path, moving_frames[:, top : top + 64, 8 * number : 8 * number + 64], fps=24)
        pool.append(path.read_bytes())
    return tuple(pool)


@pytest.fixture(scope="session")
def fresh_builds() -> dict[str, dict[str, bytes]]:
    """Files of builds from nothing; the same set is built once."""
    return {}


@pytest.fixture
def growing(
    video_pool: tuple[bytes, ...],
    fresh_builds: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Growing:
    """A folder that a test changes, built in small shards as fast as possible."""
    # What was written just now would have no stamp, and be read again.
    monkeypatch.setattr("pipeline.discover.sources.SETTLED_SECONDS", -10.0)
    quantization = QuantizationConfig(clusters=2, n_patterns=0, fit_pixels=64, iterations=1)
    config = PipelineConfig(
        size=16,
        clip=ClipConfig(cut_threshold=0),
        videos_per_shard=2,
        quantization=quantization,
    )
    return Growing(tmp_path, config, video_pool, fresh_builds)
