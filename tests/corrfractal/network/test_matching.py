"""Matching without gradients equals the naive formula, with windows that are moved and tiles that
are skipped."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from reference_attention import naive_restricted_attention

from corrfractal.network import matching
from corrfractal.network.kernels import TILE
from corrfractal.network.matching import match, tile_grid
from corrfractal.network.motion import centroids_of_ids, centroids_of_maps, window_shifts

CASES = [
    # N, C, V, h, w, radius
    (1, 3, 2, 5, 7, 1),
    (3, 4, 2, 17, 10, 2),
    (5, 4, 3, 33, 25, 4),
    (2, 3, 2, 5, 3, 9),  # the window is larger than the map
]


def _inputs(N: int, C: int, V: int, h: int, w: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(N * 31 + h)
    shapes = ((1, C, h, w), (1, N, C, h, w), (1, N, V, h, w))
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)


@pytest.mark.parametrize("mask_border", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_it_equals_the_naive_form(case: tuple[int, ...], mask_border: bool) -> None:
    *shape, radius = case
    inputs = _inputs(*shape)
    naive = naive_restricted_attention(*inputs, radius, scale=0.7, mask_border=mask_border)
    torch.testing.assert_close(match(*inputs, radius, 0.7, mask_border=mask_border), naive)


@pytest.mark.parametrize("mask_border", [True, False])
def test_skipped_tiles_equal_computed_ones(
    mask_border: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, key, value = _inputs(3, 4, 3, 70, 61)
    constant = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    value[:] = constant[:, None, None]
    value[0, 1, :, 30:41, 44] = torch.rand(3, 11, dtype=torch.float64)
    naive = naive_restricted_attention(query, key, value, 4, scale=1.0, mask_border=mask_border)
    computed = []
    softmax = torch.softmax
    monkeypatch.setattr(
        matching.torch, "softmax", lambda x, dim: computed.append(len(x)) or softmax(x, dim=dim)
    )
    ours = match(query, key, value, 4, 1.0, mask_border=mask_border, constant=constant)
    torch.testing.assert_close(ours, naive)
    # Rows 26 to 44 and columns 40 to 48 see the object: three by two of the 9 x 8 tiles. Keys that
    # count as zeros are seen by all tiles at the border.
    at_border = 0 if mask_border else 2 * (9 + 8) - 4
    assert sum(computed) == 6 + at_border


def test_values_count_by_their_weights_and_skipped_tiles_have_weight_1() -> None:
    query, key, value = _inputs(3, 4, 3, 40, 61)
    constant = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    value[:] = constant[:, None, None]
    value[0, 1, :, 10:21, 14] = torch.rand(3, 11, dtype=torch.float64)
    weight = torch.rand(1, 3, 1, 40, 61, dtype=torch.float64)
    naive = naive_restricted_attention(query, key, value * weight, 4, scale=1.0)
    ours = match(query, key, value, 4, 1.0, weight=weight)
    torch.testing.assert_close(ours, naive)
    # Rows 6 to 24 and columns 10 to 18 see the object: the first four rows and columns 1 and 2 of
    # tiles.
    skipping = match(query, key, value, 4, 1.0, constant=constant, weight=weight)
    torch.testing.assert_close(skipping[..., :32, 8:24], naive[..., :32, 8:24])
    assert (skipping[..., 24:] == constant[:, None, None]).all()
    assert (skipping[..., 32:, :] == constant[:, None, None]).all()


def test_windows_are_moved_by_their_tiles_shifts(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = _inputs(2, 3, 2, 19, 21)
    rows, columns = tile_grid(19, 21)
    shifts = torch.randint(
        -30, 30, (rows * columns, 2, 2), generator=torch.Generator().manual_seed(1)
    )
    shifts[:, 0] = 0  # one reference is always in reach
    monkeypatch.setattr(matching, "CHUNK_BYTES", 1)  # tile by tile
    ours = match(query, key, value, 3, 1.0, shifts=shifts)
    expected = torch.zeros_like(ours)
    for y, x in itertools.product(range(19), range(21)):
        weights = []
        values = []
        for n in range(2):
            dy, dx = shifts[y // TILE * columns + x // TILE, n].tolist()
            window = itertools.product(range(y + dy - 3, y + dy + 4), range(x + dx - 3, x + dx + 4))
            for v, u in window:
                if 0 <= v < 19 and 0 <= u < 21:
                    weights.append(math.exp(query[0, :, y, x] @ key[0, n, :, v, u]))
                    values.append(value[0, n, :, v, u] * weights[-1])
        expected[0, :, y, x] = sum(values) / sum(weights)
    torch.testing.assert_close(ours, expected)


def test_denormals_are_flushed_during_matching_only() -> None:
    tiny = torch.tensor(1e-38)
    assert tiny * 1e-3 != 0
    with matching._denormals_flushed():
        assert tiny * 1e-3 == 0
    assert tiny * 1e-3 != 0


def test_centroids_are_means_of_positions_and_absent_objects_keep_theirs() -> None:
    ids = np.zeros((20, 40), dtype=np.uint8)
    ids[4:8, 10:30] = 7
    channels = torch.tensor([7, 9])
    before = torch.tensor([[0.9, 0.9], [0.1, 0.2]], dtype=torch.float64)
    found = centroids_of_ids(torch.from_numpy(ids), channels, before)
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.5], [0.1, 0.2]], dtype=torch.float64))
    maps = torch.from_numpy(np.stack([ids == 7, ids == 9]).astype(np.float32))[None]
    torch.testing.assert_close(centroids_of_maps(maps, before), found)
    # An object that no frame showed yet has no centroid.
    assert centroids_of_ids(torch.from_numpy(ids), channels, before[:0])[1].isnan().all()


def test_a_tile_looks_where_its_nearest_object_was() -> None:
    now = torch.tensor([[0.5, 0.25], [0.5, 0.75]], dtype=torch.float64)
    then = [now, torch.tensor([[0.5, 0.5]], dtype=torch.float64)]  # the second object came later
    shifts = window_shifts(then, now, (16, 32)).view(2, 4, 2, 2)
    assert (shifts[:, :, 0] == 0).all()
    assert (shifts[:, :2, 1] == torch.tensor([0, 8])).all()
    assert (shifts[:, 2:, 1] == 0).all()


def test_without_any_object_no_window_is_moved() -> None:
    nowhere = torch.full((1, 2), torch.nan, dtype=torch.float64)
    assert (window_shifts([nowhere], nowhere, (9, 9)) == 0).all()
