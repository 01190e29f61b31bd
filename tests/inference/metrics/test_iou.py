"""Mean IoU against plain loops, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_iou import naive_mean_iou

from inference.metrics.iou import confusion, iou, mean_iou

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_mean_iou_agrees_with_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [
        (rng.integers(0, 7, (5, 6)).astype(np.uint8), rng.integers(0, 5, (5, 6)).astype(np.uint8))
        for _ in range(2)
    ]
    total = sum(confusion(truth, mask, 6) for truth, mask in pairs)
    assert mean_iou(np.asarray(total)) == pytest.approx(naive_mean_iou(pairs, 6), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_iou_is_symmetric_bounded_and_blind_to_the_order_of_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 4, 50).astype(np.uint8).reshape(5, 10) for _ in range(2))
    matrix = confusion(a, b, 5)
    assert matrix.sum() == a.size
    np.testing.assert_array_equal(matrix, confusion(b, a, 5).T)
    np.testing.assert_array_equal(iou(matrix), iou(matrix.T))
    assert 0 <= mean_iou(matrix) <= 1
    order = rng.permutation(50)
    shuffled = confusion(a.ravel()[order].reshape(5, 10), b.ravel()[order].reshape(5, 10), 5)
    np.testing.assert_array_equal(matrix, shuffled)


def test_the_truth_is_perfect_and_absent_classes_do_not_count() -> None:
    truth = np.array([[0, 0, 3], [3, 7, 255]], dtype=np.uint8)
    matrix = confusion(truth, np.where(truth < 5, truth, 0).astype(np.uint8), 5)
    assert np.isnan(iou(matrix)).tolist() == [False, True, True, False, True]
    assert mean_iou(matrix) == 1.0


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        confusion(np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 3), dtype=np.uint8), 2)
