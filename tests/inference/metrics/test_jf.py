"""J and F against a naive reference, on the odd cases, and against published official figures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_jf import naive_boundary, naive_f, naive_j, naive_statistics

from inference.benchmarks.davis import Davis
from inference.metrics import bits
from inference.metrics.jf import boundary_radius, frame_scores, score_sequence, statistics


def blob(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random smooth mask that may touch every border, be empty or be full."""
    noise = cv2.resize(rng.random((4, 4)).astype(np.float32), (width, height))
    return noise > rng.choice([-1, 0.3, 0.5, 0.8, 0.95, 2])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(2, 40), width=st.integers(2, 40))
def test_j_and_f_agree_with_plain_loops(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    truth = blob(rng, height, width)
    mask = blob(rng, height, width)
    assert frame_scores(truth, mask) == pytest.approx(
        (naive_j(truth, mask), naive_f(truth, mask)), abs=1e-12
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_tolerance_grows_with_the_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = blob(rng, 150, 260)
    mask = blob(rng, 150, 260)
    assert boundary_radius(150, 260) == 3
    assert frame_scores(truth, mask)[1] == pytest.approx(naive_f(truth, mask), abs=1e-12)


def test_the_boundary_follows_the_official_rules_at_the_last_row_and_column() -> None:
    mask = np.zeros((5, 6), dtype=bool)
    mask[3:, 4:] = True
    ys, xs = np.nonzero(bits.unpack(bits.boundary(bits.pack(mask), 6), 6))
    assert {*zip(ys.tolist(), xs.tolist(), strict=True)} == naive_boundary(mask)
    assert not bits.unpack(bits.boundary(bits.pack(mask), 6), 6)[-1, -1]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(2, 40),
    width=st.integers(2, 150),
    radius=st.integers(0, 70),
)
def test_bits_are_the_picture_and_grow_as_its_distances_say(
    seed: int, height: int, width: int, radius: int
) -> None:
    mask = blob(np.random.default_rng(seed), height, width)
    packed = bits.pack(mask, reach=radius)
    np.testing.assert_array_equal(bits.unpack(packed, width), mask)
    assert bits.count(packed) == mask.sum()
    disk = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * radius + 1, 2 * radius + 1))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    grown = cv2.dilate(mask.astype(np.uint8), disk * (x**2 + y**2 <= radius**2).astype(np.uint8))
    np.testing.assert_array_equal(
        bits.unpack(bits.dilate(packed, radius), width), grown.astype(bool)
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dy=st.integers(-6, 6), dx=st.integers(-6, 6))
def test_scores_are_symmetric_bounded_and_move_with_the_picture(
    seed: int, dy: int, dx: int
) -> None:
    rng = np.random.default_rng(seed)
    truth, mask = np.zeros((2, 60, 90), dtype=bool)
    truth[8:-8, 8:-8] = blob(rng, 44, 74)
    mask[8:-8, 8:-8] = blob(rng, 44, 74)
    j, f = frame_scores(truth, mask)
    assert (j, f) == pytest.approx(frame_scores(mask, truth), abs=1e-12)
    assert 0 <= j <= 1
    assert 0 <= f <= 1
    assert frame_scores(truth, truth) == (1.0, 1.0)
    moved = [np.roll(m, (dy, dx), axis=(0, 1)) for m in (truth, mask)]
    assert frame_scores(*moved) == pytest.approx((j, f), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_j_never_grows_when_wrong_pixels_are_added(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = blob(rng, 30, 40)
    mask = blob(rng, 30, 40)
    worse = mask | (~truth & (rng.random(truth.shape) < 0.1))
    assert frame_scores(truth, worse)[0] <= frame_scores(truth, mask)[0]


def test_both_empty_is_perfect_and_one_empty_is_nothing() -> None:
    empty = np.zeros((20, 30), dtype=bool)
    disk = empty.copy()
    disk[5:12, 8:15] = True
    assert frame_scores(empty, empty) == (1.0, 1.0)
    assert frame_scores(disk, empty) == frame_scores(empty, disk) == (0.0, 0.0)
    assert frame_scores(disk, disk) == (1.0, 1.0)


def test_a_full_image_has_no_boundary() -> None:
    full = np.ones((10, 10), dtype=bool)
    empty = np.zeros((10, 10), dtype=bool)
    assert frame_scores(full, empty) == (0.0, 1.0)


def test_an_object_that_disappears_scores_only_where_the_prediction_lets_it_go() -> None:
    gone = np.zeros((20, 30), dtype=np.uint8)
    present = gone.copy()
    present[5:12, 8:15] = 1
    (score,) = score_sequence("s", [1], [(present, present), (gone, present), (gone, gone)])
    assert score.j_frames == score.f_frames == (1.0, 0.0, 1.0)
    assert score.name == "s_1"


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 38, 78, 88, 255])
def test_mean_recall_and_decay_agree_with_the_official_bins(n: int) -> None:
    values = np.random.default_rng(n).random(n).tolist()
    ours = statistics(values)
    assert (ours.mean, ours.recall, ours.decay) == pytest.approx(
        naive_statistics(values), abs=1e-12
    )


def test_a_sequence_without_scored_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="no frame to score"):
        score_sequence("s", [1], [])


def test_the_official_figures_of_a_published_method_are_reproduced_to_four_decimals(
    data_dir: Path,
) -> None:
    official = json.loads((data_dir / "davis2017_reference" / "osvos_official.json").read_text())
    evaluation = Davis(data_dir / "davis2017").score(data_dir / "davis2017_reference" / "osvos")
    ours = {o.name: {"J": f"{o.J.mean:.4f}", "F": f"{o.F.mean:.4f}"} for o in evaluation.objects}
    assert ours == official
