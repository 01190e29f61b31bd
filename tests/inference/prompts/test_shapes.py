"""Masks, boxes and points of any frame become object ids; what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from corrfractal.common.errors import CallError, MaskError, NotFoundError
from inference.prompts.heat_maps import FLOOR, find_peaks, heat_maps
from inference.prompts.keypoints import read_points
from inference.prompts.mask_images import read_first_mask, write_mask
from inference.prompts.shapes import read_prompts

SIZE = (60, 80)


def test_boxes_and_points_are_drawn_in_their_order() -> None:
    prompts = read_prompts(boxes=["1,10,20,30,40", "7:3,0,0,5,5"], points=["2,20,30,4"])
    assert prompts.frames == (0, 7)
    mask = prompts.mask(0, SIZE)
    assert (mask == 1).sum() + (mask == 2).sum() == 400
    assert mask[20, 10] == 1
    assert mask[40, 30] == 0
    assert mask[30, 20] == mask[30, 24] == 2
    assert (prompts.mask(7, SIZE) == 3).sum() == 25


def test_masks_belong_to_the_frames_that_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    for frame in (4, 12):
        write_mask(folder / f"{frame:05d}.png", np.full(SIZE, frame, dtype=np.uint8))
    assert read_prompts([str(folder)]).frames == (4, 12)
    prompts = read_prompts([f"30:{folder / '00004.png'}", str(folder / "00012.png")])
    assert prompts.frames == (0, 30)
    assert (prompts.mask(30, SIZE) == 4).all()
    with pytest.raises(CallError, match="two masks are given for frame 4"):
        read_prompts([str(folder), f"4:{folder / '00012.png'}"])


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({}, CallError, "say where the objects are"),
        ({"masks": ["none.png"]}, NotFoundError, r"no such mask: none\.png"),
        ({"boxes": ["1,2,3"]}, CallError, r"cannot read '1,2,3': write \[FRAME:\]ID,X0"),
        ({"boxes": ["1,9,9,3,3"]}, CallError, "is empty"),
        ({"points": ["0,1,1"]}, CallError, r"integer 1\.\.255"),
        ({"points": ["256,1,1"]}, CallError, r"integer 1\.\.255"),
        ({"points": ["a:1,1,1"]}, CallError, "cannot read 'a:1,1,1'"),
    ],
)
def test_what_cannot_be_read_is_named(given: dict, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        read_prompts(**given)


def test_a_shape_beside_the_frame_is_refused() -> None:
    with pytest.raises(MaskError, match="object 2 at 500,5 is outside the frame of 80x60"):
        read_prompts(points=["2,500,5"]).mask(0, SIZE)


def test_255_flat_objects_are_a_mask_and_a_photograph_is_not(
    tmp_path: Path, photograph: np.ndarray
) -> None:
    y, x = np.mgrid[:150, :170]
    many = (y // 10 * 17 + x // 10 + 1).astype(np.uint8)
    write_mask(tmp_path / "many.png", many)
    assert len(np.unique(read_first_mask(tmp_path / "many.png", many.shape))) == 255
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    cv2.imwrite(str(tmp_path / "photograph.png"), grey)
    with pytest.raises(MaskError, match="looks like a photograph"):
        read_first_mask(tmp_path / "photograph.png", grey.shape)
    drawing = cv2.GaussianBlur(np.where(many > 100, np.uint8(255), np.uint8(0)), (31, 31), 9)
    cv2.imwrite(str(tmp_path / "drawing.png"), drawing)
    with pytest.raises(MaskError, match="anti-aliased"):
        read_first_mask(tmp_path / "drawing.png", drawing.shape)


def test_points_are_found_again_in_their_heat_maps() -> None:
    xy = ((10.0, 20.0), (71.4, 8.6), (0.0, 59.0))
    found, heights = find_peaks(heat_maps(xy, SIZE), floor=FLOOR)
    distances = np.hypot(*(found - np.array(xy)).T)
    assert distances.max() < 1.0
    assert heights.min() > 0.97


def test_point_files_are_csv_or_json(tmp_path: Path) -> None:
    texts = {
        "a.csv": "id,x,y,frame\nhead,1,2.5,3\nhand, 4, 5, 3\n",
        "b.json": '{"head": [1, 2.5], "hand": {"x": 4, "y": 5}}',
        "c.json": "[[1, 2.5], [4, 5]]",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        points = read_points(tmp_path / name)
        assert points.xy == ((1, 2.5), (4, 5))
        assert points.frame == (3 if name == "a.csv" else 0)
    assert points.names == ("1", "2")
    for text in ("id,x\nhead,1\n", "id,x,y,frame\na,1,2,0\nb,1,2,1\n", "id,x,y\na,1,2\na,3,4\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(CallError, match=r"bad\.csv"):
            read_points(tmp_path / "bad.csv")
    with pytest.raises(NotFoundError, match="no such file of points"):
        read_points(tmp_path / "none.csv")
