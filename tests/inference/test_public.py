"""The public Python names, used as the reference page shows them."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

import corrfractal
from corrfractal.common.errors import CallError, MaskError, NotFoundError
from corrfractal.network.tracker import FAST
from inference.config import InferenceConfig
from inference.prompts.mask_images import read_mask, write_mask
from inference.prompts.shapes import read_prompts
from inference.propagate import propagate_video


@pytest.fixture
def folder(tiny_video: Path, tmp_path: Path) -> Path:
    """The first five frames of ``tiny_video`` as a folder."""
    path = tmp_path / "frames"
    path.mkdir()
    for frame in corrfractal.open_video(tiny_video).frames(range(5)):
        cv2.imwrite(str(path / f"{frame.index:05d}.png"), frame.image[..., ::-1])
    return path


def test_propagate_gives_the_masks_of_the_command_with_corrections(
    folder: Path, first_mask: Path, tmp_path: Path
) -> None:
    later = tmp_path / "later.png"
    corrected = np.zeros((160, 192), dtype=np.uint8)
    corrected[40:80, 20:60] = 7
    write_mask(later, corrected)

    prompts = read_prompts(
        (f"1:{first_mask}", f"3:{later}"), (), (), [f"{t:05d}" for t in range(5)]
    )
    out = tmp_path / "masks"
    propagate_video(folder, prompts, out, "starter", InferenceConfig(tracker=FAST))

    model = corrfractal.CorrFractal.load("starter")
    found = list(model.propagate(folder, {1: first_mask, 3: corrected}, FAST))
    assert [frame.index for frame in found] == [1, 2, 3, 4]
    for frame in found:
        np.testing.assert_array_equal(frame.mask, read_mask(out / f"{frame.index:05d}.png"))
    assert {1, 3, 7} >= set(found[-1].objects) >= {7}


def test_frames_are_computed_as_they_are_asked_for_with_the_times_of_the_video(
    tiny_video: Path, first_mask: Path
) -> None:
    model = corrfractal.CorrFractal.load("starter")
    video = corrfractal.open_video(tiny_video)
    is_object = read_mask(first_mask) == 1
    found = list(islice(model.propagate(video, is_object), 2))
    assert [frame.time for frame in found] == pytest.approx(video.times()[:2])
    assert repr(found[0]) == "FrameMask(index=0, time=0.000, 192x160, objects=[1])"
    assert found[1].mask.dtype == np.uint8


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ({}, "no mask is given"),
        ({24: np.ones((160, 192), dtype=np.uint8)}, "there is no frame 24"),
        (np.ones((160, 191), dtype=np.uint8), "like its frame"),
        (np.ones((160, 192), dtype=np.float32), "uint8 or bool"),
        (np.zeros((160, 192), dtype=np.uint8), "all background"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_the_call_itself(
    tiny_video: Path, masks: object, reason: str
) -> None:
    model = corrfractal.CorrFractal(corrfractal.CorrFractalConfig(width=4, embedding_channels=4))
    with pytest.raises(MaskError, match=reason):
        model.propagate(tiny_video, masks)  # type: ignore[arg-type]


def test_a_model_is_loaded_by_any_name_of_the_command_line(tmp_path: Path) -> None:
    starter = corrfractal.CorrFractal.load("starter")
    assert not starter.training
    starter.save(tmp_path / "model.safetensors")
    for name in (tmp_path, tmp_path / "model.safetensors"):
        loaded = corrfractal.CorrFractal.load(name)
        assert loaded.config == starter.config
    with pytest.raises(NotFoundError, match=r"gone\.safetensors"):
        corrfractal.CorrFractal.load(tmp_path / "gone.safetensors")
    with pytest.raises(NotFoundError, match="no such model: nothing"):
        corrfractal.CorrFractal.load("nothing")
    with pytest.raises(CallError, match="baseline:copy is a baseline"):
        corrfractal.CorrFractal.load("baseline:copy")


def test_evaluate_scores_a_benchmark_by_its_name(
    ray_session: None, davis: Path, vip: Path, tmp_path: Path
) -> None:
    scores = corrfractal.evaluate("davis", davis, out=tmp_path / "d", model="baseline:copy")
    assert scores.to_dict() == json.loads((tmp_path / "d" / "scores.json").read_text())
    parts = corrfractal.evaluate("vip", str(vip), out=str(tmp_path / "v"), model="baseline:copy")
    assert 0 < parts.to_dict()["mIoU"] <= 1
    with pytest.raises(ValueError, match="vip has one split"):
        corrfractal.evaluate("vip", vip, out=tmp_path / "x", split="1")
    with pytest.raises(ValueError, match="benchmark must be davis"):
        corrfractal.evaluate("kitti", vip, out=tmp_path / "x")  # type: ignore[arg-type]
