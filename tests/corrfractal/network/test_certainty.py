"""Labels count by their certainty: doubt adds up, and never silences a label."""

from __future__ import annotations

import numpy as np
import torch

from corrfractal.network.certainty import LEAST, LEVELS, certainty_of, normalized
from corrfractal.network.tracker import TrackerConfig
from inference.color_baseline import colour_matching


def test_certainty_is_the_lead_of_the_best_label_over_the_second_in_all_parts() -> None:
    q = torch.rand(1, 5, 6, 7, generator=torch.Generator().manual_seed(0)) / 5
    parts = list(q.split((2, 2, 1), dim=1))
    ranked = np.sort(q.numpy(), axis=1)
    lead = np.maximum(ranked[:, -1:] - ranked[:, -2:-1], LEAST / LEVELS)
    np.testing.assert_allclose(certainty_of(parts) / LEVELS, lead, atol=0.5 / LEVELS + 1e-6)
    shares = torch.cat(normalized(parts), dim=1)
    torch.testing.assert_close(shares, q / q.sum(dim=1, keepdim=True))


def test_no_label_loses_its_voice_and_rounding_makes_no_doubt() -> None:
    assert certainty_of([torch.full((1, 2, 1, 1), 0.5)]).item() == LEAST
    assert certainty_of([torch.tensor([0.0, 1 - 3e-7]).view(1, 2, 1, 1)]).item() == LEVELS


def test_all_labels_of_an_annotation_are_certain_and_those_of_a_prediction_are_not() -> None:
    frame = np.random.default_rng(0).integers(100, 120, (120, 240, 3), dtype=np.uint8)
    mask = np.zeros((120, 240), dtype=np.uint8)
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


def test_doubt_adds_up_from_frame_to_frame() -> None:
    frame = np.random.default_rng(0).integers(100, 120, (120, 240, 3), dtype=np.uint8)
    mask = np.zeros((120, 240), dtype=np.uint8)
    mask[40:80, 80:160] = 1
    config = TrackerConfig(weigh_by_certainty=True, short_term=(1,), long_term=(0,))
    tracker = colour_matching().tracker(frame, mask, config)
    doubts = []
    for _ in range(4):
        tracker.step(frame)
        assert tracker.certainty is not None
        doubts.append(LEVELS - tracker.certainty.astype(float).mean())
    assert doubts == sorted(doubts)
    assert doubts[0] > 0
