"""Backbone, chains, correspondence and the whole loss on each device in float32, beside float64 on
the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from corrfractal.network.backbone import Backbone, BackboneConfig
from corrfractal.network.chain import chain
from corrfractal.network.correspondence import (
    CorrespondenceConfig,
    References,
    pyramid,
    reconstruct,
    resize_labels,
)
from corrfractal.network.correspondence import propagate as propagate_labels
from corrfractal.network.model import CorrFractal, CorrFractalConfig

NETWORK = CorrFractalConfig(width=4, embedding_channels=8)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-4) -> None:
    torch.testing.assert_close(ours.cpu().double(), theirs, rtol=tolerance, atol=tolerance)


def maps(N: int, H: int, W: int) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings and one-hot labels of N references, and the target's embedding; float64."""
    F_ref = torch.randn(2, N, 8, H, W, dtype=torch.float64)
    labels = torch.randint(0, 6, (2, N, H, W))
    Q_ref = torch.nn.functional.one_hot(labels, 6).movedim(-1, 2).double()
    return F_ref, Q_ref, torch.randn(2, 8, H, W, dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False])
def test_backbone(device: torch.device, training: bool) -> None:
    exact = Backbone(BackboneConfig(width=4, embedding_channels=8)).double().train(training)
    single = Backbone(BackboneConfig(width=4, embedding_channels=8)).train(training)
    single.load_state_dict(exact.state_dict())
    single.to(device)
    images = torch.randn(2, 3, 40, 48, dtype=torch.float64)
    expected = exact(images)
    ours = single(images.to(device, torch.float32))
    close(ours, expected, 1e-3)

    expected.square().mean().backward()
    ours.square().mean().backward()
    for parameter, other in zip(single.parameters(), exact.parameters(), strict=True):
        close(parameter.grad, other.grad, 2e-3)
    for buffer, other in zip(single.buffers(), exact.buffers(), strict=True):
        close(buffer, other.double(), 1e-3)


def test_recomputed_activations_change_nothing(device: torch.device) -> None:
    model = Backbone(BackboneConfig(width=4, embedding_channels=8)).to(device).train()
    images = torch.randn(2, 3, 40, 48, device=device)
    gradients = []
    for recompute in (False, True):
        model.recompute = recompute
        model.zero_grad()
        model(images).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, kept, rtol=1e-4, atol=1e-6)


def test_chain(device: torch.device) -> None:
    F_ref, Q_ref, F_t = maps(3, 17, 20)
    expected = chain(F_ref, Q_ref, F_t, radius=2, steps=2)
    single = [x.to(device, torch.float32) for x in (F_ref, Q_ref, F_t)]
    for ours, theirs in zip(chain(*single, radius=2, steps=2), expected, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("kind", ["scaled", "cosine"])
def test_correspondence_in_training_form(device: torch.device, kind: str) -> None:
    config = CorrespondenceConfig()
    config = replace(config, similarity=replace(config.similarity, kind=kind))
    F_ref, Q_ref, F_t = maps(2, 40, 48)
    expected = reconstruct(F_ref, Q_ref, F_t, (3.7, 8.1), config)
    single = [x.to(device, torch.float32) for x in (F_ref, Q_ref, F_t)]
    close(reconstruct(*single, (3.7, 8.1), config), expected)


def test_correspondence_in_inference_form(device: torch.device) -> None:
    config = CorrespondenceConfig()
    F_ref, Q_ref, F_t = maps(2, 48, 64)
    densities = (8.0, 4.0, 2.0)

    def predict(F_ref: Tensor, Q_ref: Tensor, F_t: Tensor) -> Tensor:
        references = []
        for f in pyramid(F_ref.flatten(0, 1), densities):
            q = resize_labels(Q_ref.flatten(0, 1), (f.shape[-2], f.shape[-1]))
            references.append(References(f.unflatten(0, (2, 2)), q.unflatten(0, (2, 2))))
        return propagate_labels(references, pyramid(F_t, densities), F_t, config)

    single = [x.to(device, torch.float32) for x in (F_ref, Q_ref, F_t)]
    close(predict(*single), predict(F_ref, Q_ref, F_t))


@pytest.mark.parametrize("appearance", ["literal", "time_reversed", "off"])
@pytest.mark.parametrize("bottleneck", ["rgb", "lab"])
def test_losses_are_those_of_the_cpu(
    device: torch.device, appearance: str, bottleneck: str
) -> None:
    """With twice as many samples as a band of one byte holds, on the CPU for comparison."""
    config = replace(NETWORK, appearance=appearance, bottleneck=bottleneck)
    model = CorrFractal(config).train()
    frames = torch.randint(0, 256, (2, 3, 3, 32, 40), dtype=torch.uint8)
    labels = torch.randint(0, 16, (2, 3, 32, 40), dtype=torch.uint8)
    keep = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    expected = model(frames, labels, (4.0, 8.0), keep)
    model.to(device)
    ours = model(*(x.to(device) for x in (frames, labels)), (4.0, 8.0), keep.to(device))
    for name in ours._fields[:3]:
        close(getattr(ours, name), getattr(expected, name).double())
    # The most likely label of a few pixels may change by rounding.
    assert abs(float(ours.error) - float(expected.error)) < 0.01
    assert float(ours.copy_error) == pytest.approx(float(expected.copy_error), abs=1e-6)
