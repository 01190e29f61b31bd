"""PCK against plain loops, and the properties that any share of correct key points has."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_pck import naive_pck

from inference.metrics.pck import distances, pck, person_size

SEEDS = st.integers(0, 2**32 - 1)


def video(rng: np.random.Generator, lost: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """True joints of 4 frames, and a prediction that is off by a few pixels and loses some."""
    truth = rng.uniform(0, 100, (4, 5, 2))
    predicted = truth + rng.normal(0, 8, truth.shape)
    predicted[rng.random((4, 5)) < lost] = np.nan
    return truth, predicted


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, threshold=st.sampled_from([0.1, 0.2, 0.5]), strict=st.booleans())
def test_pck_agrees_with_plain_loops(seed: int, threshold: float, strict: bool) -> None:
    rng = np.random.default_rng(seed)
    videos = [video(rng) for _ in range(3)]
    form = "strict" if strict else "loose"
    ours = pck([getattr(distances(*v), form) for v in videos], threshold)[0]
    expected = naive_pck([v[0] for v in videos], [v[1] for v in videos], threshold, strict)
    assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, scale=st.floats(0.1, 10), shift=st.floats(-50, 50))
def test_pck_does_not_change_with_place_and_size_and_grows_with_the_threshold(
    seed: int, scale: float, shift: float
) -> None:
    truth, predicted = video(np.random.default_rng(seed))
    original = distances(truth, predicted)
    moved = distances(scale * truth + shift, scale * predicted + shift)
    np.testing.assert_allclose(original.strict, moved.strict, rtol=1e-6)
    shares = [pck([original.strict], a)[0] for a in (0.05, 0.1, 0.2, 0.5, 1e9)]
    assert shares == sorted(shares)
    assert shares[0] >= 0
    assert shares[-1] == pytest.approx(np.mean(~np.isnan(predicted[..., 0])))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_the_truth_is_perfect_and_the_strict_form_counts_lost_joints_as_wrong(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = video(rng, lost=0.0)
    perfect = distances(truth, truth)
    assert pck([perfect.loose], 0.1)[0] == pck([perfect.strict], 0.1)[0] == 1.0
    complete = distances(truth, predicted)
    np.testing.assert_array_equal(complete.loose, complete.strict)
    lost = truth.copy()
    lost[0, 2] = np.nan
    assert pck([distances(truth, lost).loose], 0.1)[0] == 1.0
    assert pck([distances(truth, lost).strict], 0.1)[0] == pytest.approx(1 - 1 / 4 / 5)


def test_the_box_is_that_of_the_counted_joints() -> None:
    truth = np.array([[[0.0, 0.0], [30.0, 40.0], [300.0, 400.0]]])
    assert person_size(truth, np.array([[True, True, True]])) == pytest.approx([300])
    assert person_size(truth, np.array([[True, True, False]])) == pytest.approx([30])
    assert person_size(truth, np.array([[False, False, False]])) == [0]


def test_a_joint_that_counts_nowhere_is_left_out_of_the_mean() -> None:
    truth = np.array([[[0.0, 0.0], [30.0, 40.0], [10.0, 0.0]]])
    predicted = truth.copy()
    predicted[0, 1] = np.nan
    mean, each = pck([distances(truth, predicted).loose], 0.1)
    assert mean == 1.0
    assert math.isnan(each[1])


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        distances(np.zeros((2, 3, 2)), np.zeros((2, 4, 2)))
