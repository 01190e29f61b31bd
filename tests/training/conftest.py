"""Shards made once by the real pipeline from tiny real videos, and the settings of a run that takes
seconds."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from corrfractal import CorrFractalConfig
from corrfractal.common.config import config_to_dict, flatten
from corrfractal.registry.registration import register
from corrfractal.shards.manifest import load_manifest
from corrfractal.video import write_video
from inference import SERVING_FILE
from pipeline.config import ClipConfig, PipelineConfig
from tests.local_build import build_shards
from training.config import TrainingConfig, configuration
from training.job import TrainingJob
from training.loop import fit
from training.state.attempts import note_attempt
from training.state.run_log import start_run


@pytest.fixture(scope="session")
def tiny_videos(photograph: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos that drift over a photograph, v0.mp4 .. v2.mp4."""
    videos = tmp_path_factory.mktemp("videos")
    for v in range(3):
        window = [
            photograph[20 * v + t : 20 * v + t + 64, 90 * v + 2 * t : 90 * v + 2 * t + 64]
            for t in range(24)
        ]
        write_video(videos / f"v{v}.mp4", window, fps=24)
    return videos


@pytest.fixture(scope="session")
def tiny_shards(tiny_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards with a few clips of 8 frames, 48 x 48, of ``tiny_videos``."""
    out = tmp_path_factory.mktemp("shards")
    config = PipelineConfig(
        size=48, videos_per_shard=2, views=2, clip=ClipConfig(frames=8, fps=24, hop=4)
    )
    build_shards([tiny_videos], out, config)
    return out


TINY = replace(
    configuration("base", "cpu"), network=CorrFractalConfig(width=4, embedding_channels=8), batch_size=4, crop=32,
    steps=8, checkpoint_every=3, log_every=2, picture_every=4, learning_rate=3e-3,
)  # fmt: skip


@pytest.fixture
def tiny_config() -> TrainingConfig:
    """A network of a few thousand parameters and eight steps."""
    return TINY


@pytest.fixture(scope="session")
def registered(
    tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Path]]:
    """A store with two versions, each really trained for four steps, and the folders of their runs."""
    root = tmp_path_factory.mktemp("registered")
    store, digest = f"sqlite:///{root / 'mlflow.db'}", load_manifest(tiny_shards).digest
    torch.set_num_threads(1)
    runs = []
    for seed in (0, 1):
        config = replace(TINY, steps=4, seed=seed, picture_every=4)
        out = root / f"run{seed}"
        out.mkdir()
        note_attempt(out, workers=1)
        run_id = start_run(store, out.name, flatten(config_to_dict(config)), tiny_shards, digest)
        fit(TrainingJob(shards=str(tiny_shards), shards_digest=digest, out=str(out), config=config, total=4,
                tracking_uri=store, run_id=run_id), torch.device("cpu"))  # fmt: skip
        register(out / "model.safetensors", run_id, store, digest, serving_file=SERVING_FILE)
        runs.append(out)
    return root / "mlflow.db", runs


@pytest.fixture
def store(registered: tuple[Path, list[Path]], tmp_path: Path) -> str:
    """A copy of the store of ``registered``, to move aliases in; the artefacts are shared."""
    shutil.copy(registered[0], tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
