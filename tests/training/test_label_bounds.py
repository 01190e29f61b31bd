"""Shards of black, frozen or random videos are refused before anything is started; good ones and
overrides are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corrfractal.common.errors import BoundExceededError
from corrfractal.shards.manifest import LabelStatistics, load_manifest
from corrfractal.video import write_video
from pipeline.config import PipelineConfig
from tests.local_build import build_shards
from training.config import TrainingConfig
from training.label_bounds import check_labels
from training.run import train


def shards_of(folder: Path, frames: list[np.ndarray]) -> Path:
    """Shards of a video of these frames, made by the real pipeline in this process."""
    out = folder / "shards"
    write_video(folder / "video.mp4", frames, fps=24)
    config = PipelineConfig(size=64)
    build_shards([folder / "video.mp4"], out, config)
    return out


def frames_of(kind: str, photograph: np.ndarray) -> list[np.ndarray]:
    still = photograph[:160, :192]
    if kind == "black":
        return [np.zeros_like(still)] * 32
    if kind == "frozen":
        return [still] * 32
    noise = np.random.default_rng(0)
    return [noise.integers(0, 256, still.shape, dtype=np.uint8) for _ in range(32)]


@pytest.mark.parametrize(
    ("kind", "seen", "override"),
    [
        (
            "black",
            "hold 0.00 bits a pixel, and the most frequent label covers 100% ",
            {"min_label_entropy": 0.0},
        ),
        ("frozen", "the labels never change: 0.", {"min_label_change": 0.0}),
        ("noise", "the labels are noise: 9", {"max_label_change": 1.0}),
    ],
)
def test_a_data_set_without_anything_to_learn_is_refused(
    kind: str,
    seen: str,
    override: dict[str, float],
    tmp_path: Path,
    photograph: np.ndarray,
    tiny_config: TrainingConfig,
) -> None:
    shards, run = shards_of(tmp_path, frames_of(kind, photograph)), tmp_path / "run"
    with pytest.raises(BoundExceededError, match=seen) as caught:
        train(shards, run, tiny_config, tracking_uri=f"sqlite:///{tmp_path}/store.db")
    (field,) = override
    assert f"bound: {field}={getattr(tiny_config, field):g}" in str(caught.value)
    assert f"--set {field}=" in str(caught.value)
    assert not run.exists()
    assert not (tmp_path / "store.db").exists()
    allowed = replace(
        tiny_config, **override, **({"min_label_change": 0.0} if kind == "black" else {})
    )
    check_labels(load_manifest(shards).statistics.labels, allowed, shards)


def test_labels_of_real_videos_pass(tiny_shards: Path) -> None:
    labels, config = load_manifest(tiny_shards).statistics.labels, TrainingConfig()
    check_labels(labels, config, tiny_shards)
    assert labels.entropy > config.min_label_entropy
    assert config.min_label_change < labels.change_rate < config.max_label_change


def test_bounds_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_label_change: .* less than or equal to 1, got 1\.5"):
        TrainingConfig(max_label_change=1.5)
    with pytest.raises(
        ValueError, match=r"min_label_entropy: .* greater than or equal to 0, got -1"
    ):
        TrainingConfig(min_label_entropy=-1)


def test_shards_without_a_label_are_collapsed(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    with pytest.raises(BoundExceededError, match="collapsed"):
        check_labels(LabelStatistics(), tiny_config, tmp_path)
