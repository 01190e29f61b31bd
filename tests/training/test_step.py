"""A step does what the recipe says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corrfractal import CorrFractal
from training.batches import Batches
from training.config import TrainingConfig, configuration, with_settings
from training.step import learning_rate, train_step


def test_the_learning_rate_is_halved_after_epochs_2_3_and_4_of_5() -> None:
    config = TrainingConfig(learning_rate=2e-4)
    rates = [learning_rate(step, 50, config) for step in range(50)]
    assert rates == [2e-4] * 20 + [1e-4] * 10 + [5e-5] * 10 + [2.5e-5] * 10


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("references", ["base", "full"])
def test_repeated_steps_on_one_batch_lower_its_loss(
    tiny_shards: Path, tiny_config: TrainingConfig, precision: str, references: str
) -> None:
    config = replace(tiny_config, precision=precision, references=references, batch_size=2, learning_rate=1e-2)
    batch = Batches(tiny_shards, config)[0]
    torch.manual_seed(0)
    model = CorrFractal(config.network).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    losses = [float(train_step(model, optimizer, batch, 0, 100, config).loss) for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]
    assert optimizer.param_groups[0]["lr"] == 1e-2


def test_the_papers_presets_have_the_papers_values() -> None:
    base, full = configuration("base"), configuration("full")
    assert (base.learning_rate, base.epochs, base.network.width, base.network.embedding_channels) == (2e-4, 5, 64, 64)
    assert (base.references, full.references) == ("base", "full")
    assert base.network.correspondence.density_means == (4.0, 8.0)
    assert base.network.correspondence.density_sigma == 1.5


def test_settings_reach_into_the_network_and_wrong_ones_are_named() -> None:
    from corrfractal.errors import ConfigError

    config = with_settings(TrainingConfig(), ("network.correspondence.steps=3", "precision=bf16"), steps=7)
    assert (config.network.correspondence.steps, config.precision, config.steps) == (3, "bf16", 7)
    for wrong, named in (("colour=1", "colour"), ("batch_size=0", "batch_size"), ("seed", "KEY=VALUE")):
        with pytest.raises(ConfigError, match=named):
            with_settings(TrainingConfig(), (wrong,))
