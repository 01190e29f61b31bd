from __future__ import annotations

import numpy as np
import pytest
from reference_hadamard import slow_responses, walsh

from corrfractal.labels.hadamard import hadamard_responses, pattern_count, walsh_basis


@pytest.mark.parametrize("basis", [4, 8])
def test_basis_is_orthogonal_and_in_order_of_sequency(basis):
    functions = walsh_basis(basis).astype(int)
    assert (functions @ functions.T == basis * np.eye(basis)).all()
    assert [(np.diff(f) != 0).sum() for f in functions] == list(range(basis))
    assert functions.tolist() == [walsh(s, basis) for s in range(basis)]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (9, 13)])
@pytest.mark.parametrize("basis", [4, 8])
def test_every_response_equals_the_dense_convolution_bit_for_bit(basis, size):
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    fast = hadamard_responses(frames, range(pattern_count(basis)), basis)
    for pattern in range(pattern_count(basis)):
        np.testing.assert_array_equal(fast[:, pattern], slow_responses(frames, pattern, basis))


def test_responses_of_extreme_frames_do_not_overflow():
    frames = (
        (255 * (np.indices((8, 8)).sum(axis=0) % 2))
        .astype(np.uint8)[None, ..., None]
        .repeat(3, axis=-1)
    )
    fast = hadamard_responses(frames, range(pattern_count(8)), 8)
    assert np.abs(fast.astype(int)).max() == 255 * 32


def test_responses_of_a_selection_equal_those_of_all_patterns():
    frames = np.random.default_rng(1).integers(0, 256, (1, 6, 6, 3)).astype(np.uint8)
    whole = hadamard_responses(frames, range(45))
    np.testing.assert_array_equal(hadamard_responses(frames, (40, 3, 3)), whole[:, [40, 3, 3]])


def test_uniform_frames_have_no_response():
    assert not hadamard_responses(np.full((1, 5, 5, 3), 200, np.uint8), range(45)).any()


@pytest.mark.parametrize("bad", [45, -1])
def test_a_pattern_out_of_range_is_named(bad):
    with pytest.raises(ValueError, match=str(bad)):
        hadamard_responses(np.zeros((1, 4, 4, 3), np.uint8), [bad])


def test_frames_of_another_type_are_refused():
    with pytest.raises(ValueError, match="float64"):
        hadamard_responses(np.zeros((1, 4, 4, 3)), [0])
