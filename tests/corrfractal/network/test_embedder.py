"""Embeddings made on the grids equal the full-resolution embedding, resized."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.network.attention import Similarity
from corrfractal.network.correspondence import CorrespondenceConfig, resize_embedding
from corrfractal.network.embedder import Embedder
from inference.color_baseline import colour_matching

SIZES = [(13, 9), (26, 18), (52, 37)]
COLOUR = CorrespondenceConfig(similarity=Similarity(kind="cosine", colour_temperature=0.1))


def _network(**settings: object) -> CorrFractal:
    torch.manual_seed(0)
    model = CorrFractal(CorrFractalConfig(width=4, embedding_channels=8, **settings))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return model.eval()


@pytest.mark.parametrize(
    "model",
    [
        _network(),
        _network(stem_stride=2, correspondence=COLOUR),
        _network(aggregation=False, bottleneck="lab"),
        colour_matching(),
    ],
)
def test_each_grid_holds_the_resized_embedding(model: CorrFractal) -> None:
    images = torch.randint(0, 256, (1, 3, 52, 37), dtype=torch.uint8)
    with torch.inference_mode():
        full = model.embed_to_match(images)
        maps = Embedder(model).on_grids(images, SIZES)
    for size, found in zip(SIZES, maps, strict=True):
        torch.testing.assert_close(found, resize_embedding(full, size), atol=2e-4, rtol=1e-4)


def test_the_models_own_weights_and_mode_stay_as_they_are() -> None:
    model = _network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Embedder(model).on_grids(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), [(4, 4)])
    assert model.training
    assert model.state_dict().keys() == before.keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)
