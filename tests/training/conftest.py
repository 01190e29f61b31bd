"""Shards made once by the real pipeline from tiny real videos, and the settings of a run that takes seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corrfractal import CorrFractalConfig
from corrfractal.video import write_video
from pipeline.config import ClipConfig, PipelineConfig
from pipeline.manifest import commit, make_plan, prepare
from pipeline.shards import make_shard
from pipeline.sources import find_sources
from training.config import TrainingConfig, configuration


@pytest.fixture(scope="session")
def tiny_shards(photograph: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards with a few clips of 8 frames, 48 x 48, from three videos that drift over a photograph."""
    videos, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("shards")
    for v in range(3):
        window = [photograph[20 * v + t : 20 * v + t + 64, 90 * v + 2 * t : 90 * v + 2 * t + 64] for t in range(24)]
        write_video(videos / f"v{v}.mp4", window, fps=24)
    config = PipelineConfig(size=48, videos_per_shard=2, views=2, clip=ClipConfig(frames=8, fps=24, hop=4))
    plan = make_plan(find_sources([str(videos)], skip=str(out)), config)
    for spec in prepare(str(out), plan, retry_quarantined=False):  # what Ray's tasks do, without Ray
        make_shard(spec, str(out), config)
    commit(str(out), plan)
    return out


@pytest.fixture
def tiny_config() -> TrainingConfig:
    """A network of a few thousand parameters and eight steps."""
    network = CorrFractalConfig(width=4, embedding_channels=8)
    return replace(configuration("base", "cpu"), network=network, batch_size=4, crop=32, steps=8, checkpoint_every=3,
                   log_every=2, picture_every=4, learning_rate=3e-3)  # fmt: skip
