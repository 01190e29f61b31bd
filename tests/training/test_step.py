"""A step does what the recipe says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.common.errors import ConfigError
from training.config import TrainingConfig, configuration, with_settings
from training.data.batches import Batches
from training.data.reading import Batch
from training.loop import build
from training.step import StepResult, learning_rate, train_step


def test_the_learning_rate_is_halved_after_epochs_2_3_and_4_of_5() -> None:
    config = TrainingConfig(learning_rate=2e-4)
    rates = [learning_rate(step, 50, config) for step in range(50)]
    assert rates == [2e-4] * 20 + [1e-4] * 10 + [5e-5] * 10 + [2.5e-5] * 10


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("references", ["base", "full"])
def test_repeated_steps_on_one_batch_lower_its_loss(
    tiny_shards: Path, tiny_config: TrainingConfig, precision: str, references: str
) -> None:
    config = replace(
        tiny_config, precision=precision, references=references, batch_size=2, learning_rate=1e-2
    )
    batch = Batches(tiny_shards, replace(config, batch_size=4))[0].parts(2)[0]
    torch.manual_seed(0)
    model = CorrFractal(config.network).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    losses = [float(train_step(model, optimizer, batch, 0, 100, config).loss) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    assert optimizer.param_groups[0]["lr"] == 1e-2


def test_the_papers_presets_have_the_papers_values() -> None:
    base, full = configuration("base"), configuration("full")
    assert (
        base.learning_rate,
        base.epochs,
        base.network.width,
        base.network.embedding_channels,
    ) == (2e-4, 5, 64, 64)
    assert (base.references, full.references) == ("base", "full")
    assert base.network.correspondence.density_means == (4.0, 8.0)
    assert base.network.correspondence.density_sigma == 1.5


@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_the_preset_paper_is_the_method_in_the_papers_words(profile: str) -> None:
    literal = configuration("paper", profile).network
    sizes = {"width": literal.width, "embedding_channels": literal.embedding_channels}
    assert literal == replace(CorrFractalConfig(), **sizes)
    assert configuration("base", profile).network.correspondence.similarity.kind == "cosine"


@pytest.mark.parametrize("wrong", [("nope", "gpu"), ("base", "tpu")])
def test_an_unknown_preset_or_profile_is_named(wrong: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="must be one of"):
        configuration(*wrong)


def test_settings_reach_into_the_network_and_wrong_ones_are_named() -> None:
    config = with_settings(
        TrainingConfig(), ("network.correspondence.steps=3", "precision=bf16"), steps=7
    )
    assert (config.network.correspondence.steps, config.precision, config.steps) == (3, "bf16", 7)
    for wrong, named in (
        ("colour=1", "colour"),
        ("batch_size=0", "batch_size"),
        ("seed", "KEY=VALUE"),
    ):
        with pytest.raises(ConfigError, match=named):
            with_settings(TrainingConfig(), (wrong,))


def gradients(
    config: TrainingConfig, batch: Batch, *, frozen: bool = False
) -> tuple[CorrFractal, StepResult]:
    """A network after one step with a learning rate of 0, so that its gradients and averages can be
    looked at."""
    model, _ = build(config, torch.device("cpu"), world=1)
    if frozen:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return model, train_step(
        model, optimizer, batch, 3, 100, replace(config, learning_rate=0.0, clip_gradient=1e9)
    )


def noise(config: TrainingConfig, side: int = 48) -> Batch:
    """The same pixels everywhere: an encoded video differs in a few from run to run, and one at a
    kink of the network moves a gradient by more than its parts are summed up to."""
    draw = torch.Generator().manual_seed(0)
    shape = (config.batch_size, 2, 3, side, side)
    frames = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 16, (*shape[:2], side, side), generator=draw, dtype=torch.uint8)
    return Batch(frames, labels, torch.ones(config.batch_size, 3), ("",) * config.batch_size)


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny_config: TrainingConfig) -> None:
    """With frozen batch statistics, which are a part's own otherwise."""
    batch = noise(tiny_config)
    whole, one = gradients(tiny_config, batch, frozen=True)
    parts, four = gradients(replace(tiny_config, accumulate=4), batch, frozen=True)
    torch.testing.assert_close(four.loss, one.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(four.gradient_norm, one.gradient_norm, rtol=1e-4, atol=0)
    for a, b in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


def test_recomputed_activations_change_neither_gradients_nor_running_averages(
    tiny_shards: Path, tiny_config: TrainingConfig
) -> None:
    batch = Batches(tiny_shards, tiny_config)[0]
    kept, _ = gradients(tiny_config, batch)
    recomputed, _ = gradients(replace(tiny_config, recompute=True), batch)
    assert all(
        torch.equal(a.grad, b.grad)
        for a, b in zip(recomputed.parameters(), kept.parameters(), strict=True)
    )
    theirs = kept.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in recomputed.state_dict().items())


def test_a_gradient_is_clipped_and_its_norm_before_that_is_told(
    tiny_shards: Path, tiny_config: TrainingConfig
) -> None:
    batch = Batches(tiny_shards, tiny_config)[0]
    model, _ = build(tiny_config, torch.device("cpu"), world=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = train_step(model, optimizer, batch, 0, 100, replace(tiny_config, clip_gradient=1e-3))
    clipped = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert clipped == pytest.approx(1e-3, rel=1e-3)
    assert result.gradient_norm > 1e-2


# PyTorch's own, when its compiler is imported
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compilation_is_a_switch(tiny_config: TrainingConfig) -> None:
    for chosen in (False, True):
        model, _ = build(replace(tiny_config, compile=chosen), torch.device("cpu"), world=1)
        assert (model.backbone._compiled_call_impl is not None) == chosen
