"""One video and a first mask in, a mask for every frame out."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from corrfractal.common.errors import CallError, MaskError, NotFoundError, VideoError
from corrfractal.network.tracker import FAST
from corrfractal.video import open_video
from inference.config import InferenceConfig
from inference.prompts.mask_images import read_mask
from inference.prompts.shapes import read_prompts
from inference.propagate import propagate_video


def test_every_frame_gets_a_mask_and_the_overlay_plays(
    tiny_video: Path, first_mask: Path, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    overlay = tmp_path / "films" / "overlay.mp4"
    result = propagate_video(tiny_video, first_mask, out, "baseline:copy", overlay=overlay)
    assert result.frames == 24
    assert result.objects == (1, 3)
    assert sorted(path.name for path in out.glob("*.png")) == [f"{t:05d}.png" for t in range(24)]
    np.testing.assert_array_equal(read_mask(out / "00023.png"), read_mask(first_mask))
    frames = [frame.image for frame in open_video(overlay).frames()]
    assert len(frames) == 24
    assert frames[0].shape == (160, 192, 3)


def test_a_network_tracks_the_ids_it_was_given(
    tiny_video: Path, first_mask: Path, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for frame in open_video(tiny_video).frames(range(4)):
        cv2.imwrite(str(frames / f"{frame.index:05d}.jpg"), frame.image[..., ::-1])
    out = tmp_path / "masks"
    result = propagate_video(
        frames, first_mask, out, "baseline:untrained", InferenceConfig(tracker=FAST)
    )
    assert result.frames == 4
    for t in range(4):
        mask = read_mask(out / f"{t:05d}.png", (160, 192))
        assert set(np.unique(mask)) <= {0, 1, 3}
    note = json.loads((out / "propagation.json").read_text())
    assert note["model_digest"] == "baseline:untrained"
    assert note["config"]["tracker"]["densities"] == list(FAST.densities)


def test_a_second_shorter_propagation_leaves_no_stale_masks(
    tiny_video: Path, first_mask: Path, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    frames = tmp_path / "frames"
    propagate_video(tiny_video, first_mask, out, "baseline:copy")
    frames.mkdir()
    for frame in open_video(tiny_video).frames(range(5)):
        cv2.imwrite(str(frames / f"{frame.index:05d}.png"), frame.image[..., ::-1])
    propagate_video(frames, first_mask, out, "baseline:copy")
    assert len(list(out.glob("*.png"))) == 5


def test_a_damaged_frame_ends_the_run_and_earlier_masks_are_kept(
    tiny_video: Path, first_mask: Path, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    out = tmp_path / "masks"
    overlay = tmp_path / "overlay.mp4"
    frames.mkdir()
    for frame in open_video(tiny_video).frames(range(6)):
        cv2.imwrite(str(frames / f"{frame.index:05d}.png"), frame.image[..., ::-1])
    (frames / "00004.png").write_bytes(b"damaged")
    with pytest.raises(VideoError, match=r"at frame 4: 00004\.png: not an image"):
        propagate_video(frames, first_mask, out, "baseline:copy", overlay=overlay)
    assert len(list(out.glob("*.png"))) == 4
    assert len(list(open_video(overlay).frames())) == 4


def test_damage_is_reported_and_all_frames_before_it_have_masks_and_an_overlay(
    data_dir: Path, tmp_path: Path
) -> None:
    given = read_prompts(boxes=["1,5,5,60,60"])
    overlay = tmp_path / "overlay.mp4"
    with pytest.raises(VideoError, match=r"decord_corrupted\.mp4 at frame 28"):
        propagate_video(
            data_dir / "odd_videos" / "decord_corrupted.mp4",
            given,
            tmp_path / "out",
            "baseline:copy",
            overlay=overlay,
        )
    assert len(list((tmp_path / "out").glob("*.png"))) == 28
    assert open_video(overlay).info.frames == 28


def test_a_change_of_the_frame_size_is_reported(
    tiny_video: Path, first_mask: Path, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for t, size in enumerate([(192, 160), (192, 160), (64, 48)]):
        cv2.imwrite(str(frames / f"{t:05d}.png"), np.zeros((size[1], size[0], 3), dtype=np.uint8))
    with pytest.raises(VideoError, match="at frame 2: the picture changes from 192x160 to 64x48"):
        propagate_video(frames, first_mask, tmp_path / "masks", "baseline:copy")


def test_bad_calls_are_refused_before_anything_is_written(
    tiny_video: Path, first_mask: Path, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    text = tmp_path / "text.mp4"
    text.write_text("this is no video")
    with pytest.raises(NotFoundError, match="no such video"):
        propagate_video(tmp_path / "none.mp4", first_mask, out, "baseline:copy")
    with pytest.raises(VideoError, match=r"cannot open the video .*text\.mp4"):
        propagate_video(text, first_mask, out, "baseline:copy")
    with pytest.raises(NotFoundError, match="no such mask"):
        propagate_video(tiny_video, tmp_path / "none.png", out, "baseline:copy")
    with pytest.raises(MaskError, match="not a readable image"):
        propagate_video(tiny_video, text, out, "baseline:copy")
    with pytest.raises(NotFoundError, match="no such model: nothing"):
        propagate_video(tiny_video, first_mask, out, "nothing")
    with pytest.raises(CallError, match=r"must end in one of \.mp4"):
        propagate_video(
            tiny_video, first_mask, out, "baseline:copy", overlay=tmp_path / "overlay.gif"
        )
    assert not out.exists()
    with pytest.raises(CallError, match="cannot write to the folder"):
        propagate_video(tiny_video, first_mask, text / "masks", "baseline:copy")
