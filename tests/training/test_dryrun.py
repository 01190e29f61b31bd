"""A dry run makes the checks of a run, and writes nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from corrfractal import CorrFractal
from corrfractal.common.errors import ConfigError, CorrFractalError, IntegrityError
from corrfractal.shards.manifest import load_manifest
from training.cli import train
from training.config import TrainingConfig
from training.dryrun import dry_run


def test_the_command_prints_an_estimate_and_writes_nothing(
    tiny_shards: Path, tmp_path: Path
) -> None:
    before = sorted(tiny_shards.rglob("*"))
    settings = [
        "--set",
        "network.width=4",
        "--set",
        "network.embedding_channels=8",
        "--set",
        "crop=32",
    ]
    call = [
        str(tiny_shards),
        "--out",
        str(tmp_path / "run"),
        "--profile",
        "cpu",
        "--workers",
        "1-2",
        *settings,
    ]
    result = CliRunner().invoke(train, [*call, "--steps", "10", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []
    assert sorted(tiny_shards.rglob("*")) == before


def test_figures_follow_the_configuration(
    tiny_shards: Path, tiny_config: TrainingConfig, tmp_path: Path
) -> None:
    def figures(config: TrainingConfig):
        return dry_run(tiny_shards, tmp_path / "run", config, (1, 2), "sqlite:///none.db")

    plain = figures(tiny_config)
    assert (plain.steps, plain.samples_per_pass, plain.workers) == (8, 4, (1, 2))
    assert plain.samples == load_manifest(tiny_shards).statistics.samples
    assert plain.parameters == sum(p.numel() for p in CorrFractal(tiny_config.network).parameters())
    larger = figures(replace(tiny_config, crop=None))
    assert larger.gmac_per_sample == pytest.approx(plain.gmac_per_sample * (48 / 32) ** 2)
    assert (
        larger.memory_gb > plain.memory_gb > figures(replace(tiny_config, recompute=True)).memory_gb
    )
    assert figures(replace(tiny_config, accumulate=2)).samples_per_pass == 2
    # Two shards and a full shuffle: every host needs both.
    assert plain.epoch_fetch == {"1": 1.0, "4": 4.0, "16": None}
    lanes = figures(replace(tiny_config, batch_size=2)).epoch_fetch
    assert (lanes["1"], lanes["4"]) == (1.0, None)


def test_what_would_stop_a_run_stops_the_dry_one(
    tiny_shards: Path, tiny_config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(
        shards: Path, config: TrainingConfig = tiny_config, bounds: tuple[int, int] = (1, 2)
    ) -> None:
        dry_run(shards, tmp_path / "run", config, bounds, "sqlite:///none.db")

    with pytest.raises(ConfigError, match="number of workers, 3"):
        launch(tiny_shards, bounds=(1, 3))
    shards = Path(shutil.copytree(tiny_shards, tmp_path / "shards"))
    tar = next(shards.glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(IntegrityError, match=f"{tar.name} is incomplete"):
        launch(shards)
    tar.unlink()
    with pytest.raises(IntegrityError, match=f"{tar.name} is missing"):
        launch(shards)
    monkeypatch.setattr("training.dryrun._available_bytes", lambda use_gpu: 1e6)
    with pytest.raises(CorrFractalError, match="recompute=true"):
        launch(tiny_shards)


@pytest.mark.parametrize("workers", ["0", "3-1", "two", "1-"])
def test_numbers_of_workers_that_are_no_range_are_refused(workers: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(train, ["shards", "--out", str(tmp_path), "--workers", workers])
    assert result.exit_code == 2
    assert workers in result.output
