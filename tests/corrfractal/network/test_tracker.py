"""Bounds on the tracker's memory do not change its masks; a restored tracker continues as if it had
not stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from reference_propagation import propagate_by_one_affinity

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.common.errors import MaskError
from corrfractal.network import propagator
from corrfractal.network.attention import Similarity
from corrfractal.network.correspondence import CorrespondenceConfig
from corrfractal.network.tracker import Tracker, TrackerConfig, working_size
from corrfractal.network.tracker_config import single_density
from inference.color_baseline import colour_matching

SMALL = TrackerConfig(densities=(6.0, 3.0))
WEIGHED = replace(SMALL, weigh_by_certainty=True)


@pytest.fixture
def model() -> CorrFractal:
    torch.manual_seed(0)
    return CorrFractal(CorrFractalConfig(width=4, embedding_channels=8))


def frames(count: int, height: int = 48, width: int = 60) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (height + 20, width + 20, 3), dtype=np.uint8)
    return [np.ascontiguousarray(scene[t : height + t, t : width + t]) for t in range(count)]


def regions(height: int = 48, width: int = 60, side: int = 12, first: int = 1) -> np.ndarray:
    """A mask of squares that touch each other, one id each."""
    y, x = np.mgrid[:height, :width]
    return (first + y // side * (width // side) + x // side).astype(np.uint8)


def run(tracker: Tracker, video: list[np.ndarray]) -> list[np.ndarray]:
    return [tracker.step(frame) for frame in video]


@pytest.mark.parametrize("config", [SMALL, WEIGHED])
def test_labels_in_groups_and_chunks_give_the_masks_of_all_at_once(
    model: CorrFractal, config: TrackerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, mask = frames(4), regions()
    whole = run(model.tracker(video[0], mask, config), video[1:])
    monkeypatch.setattr(propagator, "GROUP_BYTES", 4 * 24 * 30 * 7)  # seven of 21 channels
    monkeypatch.setattr(propagator, "CHUNK_BYTES", 4 * 48 * 60 * 2)
    tracker = model.tracker(video[0], mask, config)
    assert len(tracker._groups()) == 3
    for a, b in zip(whole, run(tracker, video[1:]), strict=True):
        assert (a != b).mean() < 1e-3  # sums in another order may settle a tie the other way


def test_255_objects_are_propagated(model: CorrFractal) -> None:
    mask = regions(60, 68, 4)
    assert len(np.unique(mask)) == 255
    video = frames(2, 60, 68)
    tracker = model.tracker(video[0], mask, SMALL)
    assert (np.isin(tracker.step(video[1]), mask)).all()
    np.testing.assert_allclose(sum(tracker.probability(i) for i in range(1, 256)), 1, atol=1e-4)


@pytest.mark.parametrize("config", [SMALL, WEIGHED])
def test_probabilities_are_those_of_the_mask(model: CorrFractal, config: TrackerConfig) -> None:
    video = frames(4)
    mask = regions(side=24)
    tracker = model.tracker(video[0], mask, config)
    with pytest.raises(ValueError, match="no probability yet"):
        tracker.probability(1)
    out = run(tracker, video[1:])[-1]
    soft = np.stack([tracker.probability(i) for i in np.unique(mask)])
    assert soft.shape[1:] == mask.shape
    np.testing.assert_allclose(soft.sum(axis=0), 1, atol=1e-4)
    assert (np.unique(mask)[soft.argmax(axis=0)] == out).all()
    with pytest.raises(ValueError, match="object 99"):
        tracker.probability(99)


@pytest.mark.parametrize("config", [SMALL, WEIGHED])
@pytest.mark.parametrize("stopped", [1, 4, 9])
def test_a_restored_tracker_continues_as_if_it_had_not_stopped(
    model: CorrFractal, stopped: int, config: TrackerConfig
) -> None:
    video, first, later = frames(12), regions(side=24), np.zeros((48, 60), dtype=np.uint8)
    later[10:20, 10:20] = 9
    annotated = {3: later}
    whole = model.tracker(video[0], first, config)
    masks = [first]
    certainties = [None]
    for t in range(1, 12):
        masks.append(whole.step(video[t], annotated.get(t)))
        certainties.append(whole.certainty)
    weighed = [certainty is not None for certainty in certainties]
    assert weighed == [config is WEIGHED and t not in (0, 3) for t in range(12)]

    again = model.tracker(video[0], first, config)
    for t in range(1, stopped):
        again.restore(
            video[t],
            masks[t],
            resume_at=stopped,
            annotated=t in annotated,
            certainty=certainties[t],
        )
    for t in range(stopped, 12):
        np.testing.assert_array_equal(again.step(video[t], annotated.get(t)), masks[t])


def test_an_annotated_object_is_exactly_where_its_mask_shows_it(model: CorrFractal) -> None:
    video, first = frames(2), np.ones((48, 60), dtype=np.uint8)
    first[:, 30:] = 2
    correction = np.zeros_like(first)
    correction[5:10, 5:10] = 1
    out = model.tracker(video[0], first, SMALL).step(video[1], correction)
    assert ((out == 1) == (correction == 1)).all()
    assert (out == 2).sum() > 1000


def test_annotated_frames_stay_in_memory_and_only_the_latest_of_them(model: CorrFractal) -> None:
    video, first = frames(14), regions(side=24)
    tracker = model.tracker(video[0], first, SMALL)
    for t in range(1, 14):
        tracker.step(video[t], first if t in (1, 2, 3) else None)
    assert set(tracker._memory) == {0, 2, 3, 5, 9, 10, 11, 12, 13}


def test_heat_maps_are_carried_channel_by_channel(model: CorrFractal) -> None:
    video = frames(3)
    heat = np.random.default_rng(0).random((3, 48, 60), dtype=np.float32)
    heat[1] = 0
    tracker = model.label_tracker(video[0], heat, SMALL)
    for frame in video[1:]:
        out = tracker.step_labels(frame)
    assert out.shape == heat.shape
    assert out[1].max() == 0
    alone = model.label_tracker(video[0], heat[:1], SMALL)
    for frame in video[1:]:
        single = alone.step_labels(frame)
    np.testing.assert_allclose(single[0], out[0], atol=1e-5)
    with pytest.raises(MaskError, match="labels must be float32"):
        model.label_tracker(video[0], heat[:, 1:], SMALL)


def test_the_window_of_test_time_is_the_trackers_and_not_the_losses(model: CorrFractal) -> None:
    video, first = frames(3), regions()
    trained = model.config.correspondence
    model.config = replace(model.config, correspondence=replace(trained, radius=1, test_radius=3))
    assert model.in_training.radius == 1
    wide = run(Tracker(model, video[0], first, SMALL), video[1:])
    model.config = replace(model.config, correspondence=replace(trained, radius=3))
    np.testing.assert_array_equal(wide, run(Tracker(model, video[0], first, SMALL), video[1:]))
    model.config = replace(model.config, correspondence=replace(trained, radius=1))
    assert np.any(np.not_equal(wide, run(Tracker(model, video[0], first, SMALL), video[1:])))


def test_large_frames_and_half_resolution_are_embedded_smaller_and_masks_keep_the_size(
    model: CorrFractal,
) -> None:
    assert working_size(480, 854, TrackerConfig()) == (480, 854)
    assert working_size(480, 854, TrackerConfig(resolution="half")) == (240, 427)
    assert working_size(2160, 3840, TrackerConfig()) == (1080, 1920)
    video, mask = frames(2), regions()
    for config in (replace(SMALL, resolution="half"), replace(SMALL, max_pixels=700)):
        tracker = model.tracker(video[0], mask, config)
        assert tracker.step(video[1]).shape == (48, 60)
        assert all(f.shape[-1] <= 10 for frame in tracker._memory.values() for f in frame.f)


def test_bf16_keeps_half_the_memory_and_nearly_the_masks(model: CorrFractal) -> None:
    video, mask = frames(3), regions(side=24)
    exact = run(model.tracker(video[0], mask, SMALL), video[1:])
    tracker = model.tracker(video[0], mask, replace(SMALL, precision="bf16"))
    rounded = run(tracker, video[1:])
    assert all(f.dtype == torch.bfloat16 for frame in tracker._memory.values() for f in frame.f)
    assert (exact[-1] == rounded[-1]).mean() > 0.9


@pytest.mark.parametrize(
    "wrong", [{"resolution": "third"}, {"precision": "fp8"}, {"annotated": -1}]
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrackerConfig(**wrong)


@pytest.mark.parametrize("weigh", [False, True])
def test_one_affinity_gives_the_masks_of_the_naive_form(weigh: bool) -> None:
    torch.manual_seed(0)
    correspondence = CorrespondenceConfig(
        multi_density=False,
        radius=2,
        weigh_by_certainty=weigh,
        similarity=Similarity(kind="cosine", temperature=0.1, colour_temperature=0.001),
    )
    config = CorrFractalConfig(width=4, embedding_channels=8, correspondence=correspondence)
    model = CorrFractal(config).eval()
    video = frames(9, 120, 168)
    mask = np.zeros((120, 168), dtype=np.uint8)
    mask[20:60, 20:50] = 3
    naive = propagate_by_one_affinity(model, video, mask, radius=2, density=4.0, weigh=weigh)
    for ours, expected in zip(run(model.tracker(video[0], mask), video[1:]), naive, strict=True):
        assert 0 < (expected > 0).mean() < 0.5
        assert (ours != expected).mean() < 1e-3  # rounding may settle a tie the other way


def test_a_bound_on_cells_makes_the_grid_of_large_frames_coarser() -> None:
    bounded = CorrespondenceConfig(multi_density=False, test_cells=11360, test_pixels=854 * 480)
    for size in ((480, 854), (320, 570), (1280, 720)):
        height, width = working_size(*size, TrackerConfig(), bounded)
        density = single_density(height, width, bounded)
        assert round(height / density) * round(width / density) == pytest.approx(11360, rel=0.01)
    # Small frames keep the model's density.
    assert single_density(160, 192, bounded) == 4.0
    model = colour_matching()
    model.config = replace(model.config, correspondence=bounded)
    first = np.ones((480, 854), dtype=np.uint8)
    frame = np.zeros((480, 854, 3), dtype=np.uint8)
    assert model.tracker(frame, first)._grids == [(80, 142)]
    # A density that is asked for is used.
    assert model.tracker(frame, first, TrackerConfig(density=10.0))._grids == [(48, 85)]


def test_windows_that_follow_motion_reach_an_object_that_left_the_fixed_ones() -> None:
    # The object moves 6 cells a frame. Frame t-2 is out of reach of a window of 8 cells, unless the
    # window is moved by what the object moved from t-2 to t-1.
    texture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    video = [np.full((64, 240, 3), 90, dtype=np.uint8) for _ in range(6)]
    truths = [np.zeros((64, 240), dtype=np.uint8) for _ in range(6)]
    for t in range(6):
        place = slice(20, 44), slice(8 + 24 * t, 32 + 24 * t)
        video[t][place] = texture
        truths[t][place] = 1
    overlaps = []
    for follow_motion in (False, True):
        config = TrackerConfig(radius=8, short_term=(2,), follow_motion=follow_motion)
        tracker = colour_matching().tracker(video[0], truths[0], config)
        last = run(tracker, video[1:])[-1]
        overlaps.append((last & truths[-1]).sum() / (last | truths[-1]).sum())
    assert overlaps[0] < 0.1
    assert overlaps[1] > 0.9
