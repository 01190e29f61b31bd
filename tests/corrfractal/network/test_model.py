"""The network trains, is saved and loaded, and damaged files are refused; trackers propagate masks
in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.common.config import config_to_dict
from corrfractal.common.errors import IntegrityError, MaskError, NotFoundError
from corrfractal.labels.color import lab_for_network, lab_patches
from corrfractal.network.artifact import FORMAT, read_metadata
from corrfractal.network.attention import Similarity
from corrfractal.network.correspondence import CorrespondenceConfig, resize_embedding
from corrfractal.network.tracker import TrackerConfig

SLIM = CorrFractalConfig(width=4, embedding_channels=8)
SMALL = TrackerConfig(densities=(4.0, 2.0))


@pytest.fixture
def model() -> CorrFractal:
    torch.manual_seed(0)
    return CorrFractal(SLIM)


def _batch(references: int = 1, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(
        0, 256, (2, references + 1, 3, side, side), generator=generator, dtype=torch.uint8
    )
    return frames, torch.randint(
        0, 16, (2, references + 1, side, side), generator=generator, dtype=torch.uint8
    )


@pytest.mark.parametrize("references", [1, 5])
@pytest.mark.parametrize("reading", ["literal", "time_reversed", "off"])
def test_every_parameter_gets_a_finite_gradient(references: int, reading: str) -> None:
    model = CorrFractal(CorrFractalConfig(width=4, embedding_channels=8, appearance=reading))
    losses = model(*_batch(references), densities=(4.0, 8.0))
    losses.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert 0 <= losses.error <= 1


def test_the_loss_is_half_appearance_half_correspondence(model: CorrFractal) -> None:
    losses = model(*_batch(), densities=(4.0, 8.0))
    torch.testing.assert_close(losses.total, 0.5 * losses.appearance + 0.5 * losses.correspondence)


def test_what_is_for_test_time_alone_changes_no_loss_but_the_embedding_that_is_matched() -> None:
    networks = []
    for fields in ({}, {"test_temperature": 0.01, "colour_temperature": 0.001}):
        torch.manual_seed(0)
        correspondence = CorrespondenceConfig(similarity=Similarity(kind="cosine", **fields))
        networks.append(
            CorrFractal(
                CorrFractalConfig(width=4, embedding_channels=8, correspondence=correspondence)
            )
        )
    plain, coloured = networks
    frames, labels = _batch()
    torch.testing.assert_close(
        coloured(frames, labels, (4.0, 8.0)).total, plain(frames, labels, (4.0, 8.0)).total
    )
    plain.eval(), coloured.eval()
    joined = coloured.embed_to_match(frames[:, 0])
    torch.testing.assert_close(joined[:, :8], plain.embed_to_match(frames[:, 0]))
    torch.testing.assert_close(joined[:, 8:], lab_patches(lab_for_network(frames[:, 0] / 255)))


def test_copy_error_is_the_share_of_labels_that_changed_in_place(model: CorrFractal) -> None:
    frames, labels = _batch()
    labels[:, 1] = labels[:, 0]
    assert model(frames, labels, densities=(4.0, 8.0)).copy_error == 0


def test_a_dropped_colour_channel_cannot_change_the_embedding(model: CorrFractal) -> None:
    frames = _batch()[0][:, 0]
    other = frames.clone()
    other[:, 1] = 255 - other[:, 1]
    keep = torch.tensor([[1.0, 0.0, 1.0]]).repeat(2, 1)
    model.eval()
    assert torch.equal(model.embed(frames, keep), model.embed(other, keep))
    assert not torch.equal(model.embed(frames), model.embed(other))


def test_a_lab_network_is_blind_to_a_dropped_colour_axis() -> None:
    torch.manual_seed(0)
    model = CorrFractal(CorrFractalConfig(width=4, embedding_channels=8, bottleneck="lab")).eval()
    grey = torch.full((1, 3, 16, 16), 0.5)
    tinted = grey + torch.tensor([0.1, -0.05, 0.1])[:, None, None]
    full, none = torch.ones(1, 3), torch.tensor([[1.0, 0.0, 0.0]])
    assert (model.embed(grey, full) - model.embed(tinted, full)).abs().max() > 1e-3
    change = (model.embed(grey, none) - model.embed(tinted, none)).abs().max()
    lightness = (model.embed(grey, none) - model.embed(grey + 0.01, none)).abs().max()
    assert change < 2 * lightness


def test_a_saved_model_loads_to_the_same_outputs_and_keeps_its_metadata(
    model: CorrFractal, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path, {"shards_digest": "abc"})
    loaded = CorrFractal.load(path)
    images = _batch()[0][:, 0]
    assert loaded.config == model.config
    assert torch.equal(loaded.embed(images), model.eval().embed(images))
    assert read_metadata(path)["shards_digest"] == "abc"
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_model_file_of_version_0_1_0_loads_at_the_settled_values_only(
    model: CorrFractal, tmp_path: Path
) -> None:
    path = tmp_path / "old.safetensors"
    values = config_to_dict(model.config)
    for merge in ("progressive", "single"):
        values["correspondence"] |= {"joint_references": True, "merge": merge}
        metadata = {"format": FORMAT, "config": json.dumps(values)}
        save_file(dict(model.state_dict()), path, metadata)
        if merge == "progressive":
            assert CorrFractal.load(path).config == model.config
        else:
            with pytest.raises(IntegrityError, match="field 'merge' was removed"):
                CorrFractal.load(path)


def test_damaged_foreign_and_missing_model_files_are_named(
    model: CorrFractal, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    for bad, error in (
        (cut, IntegrityError),
        (foreign, IntegrityError),
        (tmp_path / "none.safetensors", NotFoundError),
    ):
        with pytest.raises(error, match=bad.name):
            CorrFractal.load(bad)


@pytest.mark.parametrize(
    ("H", "W", "ids"), [(33, 47, [1]), (50, 30, [1, 2, 7]), (40, 40, list(range(1, 11)))]
)
def test_masks_have_the_frames_exact_size_and_no_foreign_ids(
    model: CorrFractal, H: int, W: int, ids: list[int]
) -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice([0, *ids], size=(H, W)).astype(np.uint8)
    tracker = model.tracker(rng.integers(0, 256, (H, W, 3), dtype=np.uint8), mask, SMALL)
    for _ in range(2):
        out = tracker.step(rng.integers(0, 256, (H, W, 3), dtype=np.uint8))
        assert out.shape == (H, W)
        assert out.dtype == np.uint8
        assert set(np.unique(out)) <= {0, *ids}


def test_memory_holds_only_the_frames_that_later_steps_need(
    model: CorrFractal, moving_frames: np.ndarray
) -> None:
    tracker = model.tracker(
        moving_frames[0], np.eye(160, 192, dtype=np.uint8), TrackerConfig(densities=(8.0,))
    )
    for t in range(1, 16):
        tracker.step(moving_frames[t])
        assert set(tracker._memory) == {i for i in range(t + 1) if i in (0, 5) or i >= t - 4}


def test_memory_of_the_tracker_is_the_same_after_500_frames(model: CorrFractal) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 24, 40, 3), dtype=np.uint8)
    tracker = model.tracker(
        frames[0], np.eye(24, 40, dtype=np.uint8), TrackerConfig(densities=(4.0, 2.0))
    )
    held, resident = [], []
    for t in range(1, 501):
        tracker.step(frames[t % 8])
        kept = [x for frame in tracker._memory.values() for x in (*frame.f, *frame.q, frame.ids)]
        held.append(sum(x.untyped_storage().nbytes() for x in kept))
        resident.append(
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        )
    assert len(set(held[10:])) == 1
    assert resident[-1] - resident[50] < 16 << 20


class CoordinateNetwork(CorrFractal):
    """A perfect network for frames whose red and green say which point of the scene a pixel
    shows."""

    def embedder(self) -> CoordinateNetwork:
        return self

    def on_grids(
        self, images: torch.Tensor, sizes: Sequence[tuple[int, int]]
    ) -> list[torch.Tensor]:
        angle = images[:, :2].float() * (2 * torch.pi / 256)
        full = 80 * torch.cat((angle.cos(), angle.sin()), dim=1)
        return [resize_embedding(full, size) for size in sizes]


def scene(dy: int, dx: int, side: int = 64) -> np.ndarray:
    """A frame of a scene of coordinates that has moved by (dy, dx)."""
    y, x = np.mgrid[:side, :side]
    return np.stack((3 * (y - dy), 3 * (x - dx), 0 * y), axis=-1).astype(np.uint8)


def box(y: int, x: int, side: int = 64, size: int = 16) -> np.ndarray:
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[y : y + size, x : x + size] = 1
    return mask


def test_with_coordinates_for_features_a_translation_is_followed_through_the_video() -> None:
    tracker = CoordinateNetwork(SLIM).tracker(
        scene(0, 0), box(20, 10), TrackerConfig(densities=(6.0, 4.0, 2.0))
    )
    for t in range(1, 8):
        out = tracker.step(scene(-t, 3 * t))
        truth = box(20 - t, 10 + 3 * t)
        assert (out & truth).sum() / (out | truth).sum() > 0.85


def test_an_annotation_in_mid_video_adds_an_object_that_was_not_there_before() -> None:
    def before(dx: int) -> np.ndarray:
        return np.where(box(40, 40, size=24)[..., None] == 1, np.uint8(0), scene(0, dx))

    tracker = CoordinateNetwork(SLIM).tracker(before(0), box(5, 5), SMALL)
    tracker.step(before(1))
    later = 9 * box(40, 40)
    assert (tracker.step(scene(0, 2), mask=later)[later == 9] == 9).all()
    out = tracker.step(scene(0, 3))
    assert ((out == 9) & (box(40, 41) == 1)).sum() > 200
    assert ((out == 1) & (box(5, 8) == 1)).sum() > 200


def test_frames_and_masks_of_another_size_are_refused(model: CorrFractal) -> None:
    frame, mask = np.zeros((20, 30, 3), dtype=np.uint8), np.zeros((20, 30), dtype=np.uint8)
    with pytest.raises(MaskError, match=r"\(20, 30\)"):
        model.tracker(frame, mask[:-1], SMALL)
    tracker = model.tracker(frame, mask, SMALL)
    with pytest.raises(MaskError, match="frames must be"):
        tracker.step(frame[:, :-1])


def test_tracker_configurations_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="descend"):
        TrackerConfig(densities=(2.0, 4.0))
    with pytest.raises(ValueError, match="frame 0"):
        TrackerConfig(long_term=(5,))


def test_soft_labels_move_with_the_scene_and_each_channel_for_itself() -> None:
    labels = np.zeros((2, 64, 64), dtype=np.float32)
    labels[0, 20:36, 10:26], labels[1, 40:50, 30:50] = 1.0, 0.25
    config = TrackerConfig(densities=(6.0, 4.0, 2.0))
    tracker = CoordinateNetwork(SLIM).label_tracker(scene(0, 0), labels, config)
    alone = CoordinateNetwork(SLIM).label_tracker(scene(0, 0), labels[1:], config)
    for t in range(1, 5):
        out = tracker.step_labels(scene(-t, 3 * t))
        np.testing.assert_allclose(alone.step_labels(scene(-t, 3 * t))[0], out[1], atol=1e-5)
    truth = box(16, 22).astype(bool)
    assert out.shape == (2, 64, 64)
    assert out[0][truth].mean() > 0.8
    assert out[0][~truth].mean() < 0.05
    assert out[1].max() == pytest.approx(0.25, abs=0.02)
    with pytest.raises(MaskError, match=r"labels must be float32 \(K, 64, 64\)"):
        CoordinateNetwork(SLIM).label_tracker(scene(0, 0), labels[:, :-1], config)
