"""Overlay and contours play in browsers; the cut-out is transparent outside the objects."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from corrfractal.common.errors import CallError
from corrfractal.video import open_video
from inference.prompts.mask_images import contours, cut_out, read_mask
from inference.propagate import propagate_video
from inference.propagation.outputs import Outputs


def test_overlay_contours_and_cut_out_have_every_frame(
    tiny_video: Path, first_mask: Path, tmp_path: Path
) -> None:
    outputs = Outputs(
        overlay=tmp_path / "a.mp4", contours=tmp_path / "b.mp4", cutout=tmp_path / "c.webm"
    )
    propagate_video(tiny_video, first_mask, tmp_path / "masks", "baseline:copy", outputs=outputs)
    for path in (tmp_path / "a.mp4", tmp_path / "b.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
            assert (stream.width, stream.height) == (192, 160)
        assert open_video(path).info.frames == 24
    # FFmpeg's own VP9 decoder omits the alpha plane.
    decoder = av.CodecContext.create("libvpx-vp9", "r")
    with av.open(str(tmp_path / "c.webm")) as container:
        packets = (frame for packet in container.demux(video=0) for frame in decoder.decode(packet))
        alpha = next(packets).to_ndarray(format="rgba")[..., 3]
    objects = read_mask(first_mask) > 0
    assert ((alpha > 128) == objects).mean() > 0.98


def test_a_cut_out_folder_holds_rgba(tiny_video: Path, first_mask: Path, tmp_path: Path) -> None:
    propagate_video(
        tiny_video,
        first_mask,
        tmp_path / "masks",
        "baseline:copy",
        outputs=Outputs(cutout=tmp_path / "cut"),
    )
    files = sorted((tmp_path / "cut").iterdir())
    assert len(files) == 24
    with Image.open(files[-1]) as image:
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.array(image)[..., 3] == 255, read_mask(first_mask) > 0)


def test_outlines_are_on_the_rims_and_a_cut_out_keeps_its_pixels(moving_frames: np.ndarray) -> None:
    mask = np.zeros((160, 192), dtype=np.uint8)
    mask[40:100, 50:120] = 7
    changed = (contours(moving_frames[0], mask) != moving_frames[0]).any(axis=-1)
    assert changed[40, 60:110].all()
    assert not changed[60:80, 70:100].any()
    assert not changed[:30].any()
    cut = cut_out(moving_frames[0], mask)
    np.testing.assert_array_equal(cut[50, 60, :3], moving_frames[0][50, 60])
    assert cut[0, 0].tolist() == [0, 0, 0, 0]


def test_names_that_cannot_be_written_are_refused() -> None:
    with pytest.raises(CallError, match=r"must end in one of \.mp4"):
        Outputs(contours=Path("a.gif")).check()
    with pytest.raises(CallError, match=r"no alpha channel: name the cut-out \.webm"):
        Outputs(cutout=Path("a.mp4")).check()
