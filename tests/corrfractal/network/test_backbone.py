"""The embedding has the resolution of its input, for any size."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from corrfractal.network.backbone import Backbone, BackboneConfig


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (7, 5), (64, 21)])
@pytest.mark.parametrize("aggregation", [True, False])
def test_the_embedding_has_the_size_of_the_image(size: tuple[int, int], aggregation: bool) -> None:
    network = Backbone(
        BackboneConfig(width=4, embedding_channels=6, aggregation=aggregation)
    ).eval()
    assert network(torch.zeros(1, 3, *size)).shape == (1, 6, *size)


def test_the_papers_network_costs_88_gmac_for_256_by_256() -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        Backbone(BackboneConfig())(torch.zeros(1, 3, 256, 256))
    assert counter.get_total_flops() / 2e9 == pytest.approx(88, abs=2)


def test_without_aggregation_the_embedding_is_an_enlarged_quarter() -> None:
    """Stage 4 has one pixel in four; between them the embedding is interpolated, a straight line."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 32, 32)
    bends = {}
    for aggregation in (True, False):
        network = Backbone(
            BackboneConfig(width=8, embedding_channels=8, aggregation=aggregation)
        ).eval()
        row = network(image)[0, :, 13, :]
        bends[aggregation] = (
            (row[:, 14:17] - 2 * row[:, 15:18] + row[:, 16:19]).abs()[:, 0].max().item()
        )
    assert bends[False] < 1e-5 < bends[True]


def test_configurations_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="width"):
        BackboneConfig(width=1)
