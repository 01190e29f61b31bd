"""A training step launches few operations and does not read values back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.operations import count_operations, noise
from training.config import configuration


@pytest.mark.parametrize(("preset", "most"), [("paper", 1150), ("base", 1500), ("full", 1500)])
def test_a_step_stays_within_its_operations_and_waits_for_no_value(preset: str, most: int) -> None:
    """With inner products 1,064 operations in November 2026, 1,532 before masks were made in one
    piece and sums were added in place; with the cosine, whose norms have gradients, 1,420."""
    torch.set_num_threads(1)
    config = configuration(preset)
    config = replace(config, network=replace(config.network, width=4), batch_size=2)
    found = count_operations(config, noise(config, 2, 64))
    assert found.waits == 0
    assert 500 < found.total <= most


def test_reading_a_value_counts_as_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import operations

    plain = operations.train_step

    def reads_the_loss(*arguments):
        result = plain(*arguments)
        result.loss.item()
        return result

    monkeypatch.setattr(operations, "train_step", reads_the_loss)
    config = configuration("base")
    config = replace(config, network=replace(config.network, width=4), batch_size=1)
    assert count_operations(config, noise(config, 1, 16)).waits == 1
