"""Labels count by their certainty: doubt adds up, and never silences a label."""

from __future__ import annotations

import numpy as np
import torch

from corrfractal.network.certainty import LEAST, LEVELS, certainty_of
from corrfractal.network.tracker import TrackerConfig
from inference.color_baseline import colour_matching


def test_certainty_is_the_lead_of_the_best_label_over_the_second_in_all_parts() -> None:
    q = torch.rand(1, 5, 6, 7, generator=torch.Generator().manual_seed(0)) / 5
    parts = list(q.split((2, 2, 1), dim=1))
    ranked = np.sort(q.numpy(), axis=1)
    lead = np.maximum(ranked[:, -1:] - ranked[:, -2:-1], LEAST / LEVELS)
    np.testing.assert_allclose(certainty_of(parts) / LEVELS, lead, atol=0.5 / LEVELS + 1e-6)


def test_no_label_loses_its_voice_and_rounding_makes_no_doubt() -> None:
    assert certainty_of([torch.full((1, 2, 1, 1), 0.5)]).item() == LEAST
    assert certainty_of([torch.tensor([0.0, 1 - 3e-7]).view(1, 2, 1, 1)]).item() == LEVELS


def test_a_video_may_begin_without_an_object() -> None:
    frame = np.zeros((120, 160, 3), dtype=np.uint8)
    nothing = np.zeros((120, 160), dtype=np.uint8)
    tracker = colour_matching().tracker(frame, nothing, TrackerConfig(weigh_by_certainty=True))
    assert (tracker.step(frame) == 0).all()
    assert (tracker.certainty == LEVELS).all()
    later = nothing.copy()
    later[40:80, 40:80] = 3
    visible = np.where(later[..., None] > 0, np.uint8(200), frame)
    tracker.step(visible, later)
    assert ((tracker.step(visible) == later).mean()) > 0.98


def test_all_labels_of_an_annotation_are_certain_and_those_of_a_prediction_are_not() -> None:
    frame = np.random.default_rng(0).integers(100, 120, (120, 400, 3), dtype=np.uint8)
    mask = np.zeros((120, 400), dtype=np.uint8)
    mask[40:80, 80:160] = 1
    config = TrackerConfig(weigh_by_certainty=True)
    tracker = colour_matching().tracker(frame, mask, config)
    assert tracker.certainty is None
    tracker.step(frame)
    first = tracker.certainty
    assert first is not None
    assert first.max() == LEVELS
    # Cells on the object's boundary hold both labels.
    assert first.min() < LEVELS / 2
    tracker.step(frame, mask)
    assert tracker.certainty is None


def test_the_doubt_of_a_memory_frame_is_part_of_the_next_ones() -> None:
    frame = np.random.default_rng(0).integers(100, 120, (120, 400, 3), dtype=np.uint8)
    mask = np.zeros((120, 400), dtype=np.uint8)
    mask[40:80, 80:160] = 1
    config = TrackerConfig(weigh_by_certainty=True)
    certainties = []
    for factor in (1.0, 0.5):
        tracker = colour_matching().tracker(frame, mask, config)
        tracker.step(frame)
        memory = tracker._memory[1]
        memory.weights = [weights * factor for weights in memory.weights]
        tracker.step(frame)
        certainties.append(tracker.certainty)
    assert certainties[0].mean() > certainties[1].mean() + 5
    # Far from the object nothing is in doubt.
    assert (certainties[1][:, -8:] == LEVELS).all()
