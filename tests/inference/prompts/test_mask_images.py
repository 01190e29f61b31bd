"""Mask files: what is accepted, what is refused, and the messages."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from corrfractal.common.errors import MaskError, NotFoundError
from inference.prompts.mask_images import (
    blend,
    bright_palette,
    encode_mask,
    palette,
    read_certainty,
    read_first_mask,
    read_mask,
    write_mask,
)


def test_a_palette_png_keeps_its_ids_and_has_the_colours_of_davis(tmp_path: Path) -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_mask(tmp_path / "mask.png", ids)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), ids)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image.convert("RGB")), palette()[ids])
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_certainty_travels_with_a_mask_and_no_reader_of_masks_sees_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (48, 60), dtype=np.uint8)
    certainty = rng.integers(0, 256, (8, 10), dtype=np.uint8)
    plain = tmp_path / "plain.png"
    both = tmp_path / "both.png"
    plain.write_bytes(encode_mask(ids))
    both.write_bytes(encode_mask(ids, certainty))
    np.testing.assert_array_equal(read_certainty(both), certainty)
    assert read_certainty(plain) is None
    np.testing.assert_array_equal(read_mask(both), ids)
    np.testing.assert_array_equal(cv2.imread(str(both)), cv2.imread(str(plain)))


def test_the_palette_is_that_of_pascal_voc() -> None:
    assert palette()[:5].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [0, 0, 128],
    ]
    assert palette()[21].tolist() == [128, 64, 128]
    assert len(np.unique(palette(), axis=0)) == 256


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_grey_images_of_any_mode_are_ids(tmp_path: Path, mode: str) -> None:
    ids = np.array([[0, 1, 1], [2, 2, 0]], dtype=np.uint8)
    image = Image.fromarray(ids.astype(np.uint16)) if mode == "I;16" else Image.fromarray(ids)
    if mode == "P":
        image.putpalette(palette().tobytes())
    elif mode != "I;16":
        image = image.convert(mode)
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), ids)


def test_a_black_and_white_drawing_is_one_object(tmp_path: Path) -> None:
    ids = np.array([[0, 255], [255, 0]], dtype=np.uint8)
    Image.fromarray(ids).save(tmp_path / "mask.png")
    Image.fromarray(ids).convert("1").save(tmp_path / "bits.png")
    for name in ("mask.png", "bits.png"):
        np.testing.assert_array_equal(read_first_mask(tmp_path / name, (2, 2)), ids // 255)


def test_a_coloured_mask_is_refused_with_a_hint(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4, 3), [128, 0, 0], dtype=np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(MaskError, match=r"mask\.png is coloured \(RGB\).*save it as a palette PNG"):
        read_mask(tmp_path / "mask.png")


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    write_mask(tmp_path / "mask.png", np.ones((4, 6), dtype=np.uint8))
    with pytest.raises(MaskError, match=r"mask\.png is 6x4 but its frame is 8x5"):
        read_mask(tmp_path / "mask.png", (5, 8))


def test_an_all_background_mask_is_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "mask.png", np.zeros((4, 6), dtype=np.uint8))
    with pytest.raises(MaskError, match="all background"):
        read_first_mask(tmp_path / "mask.png", (4, 6))


def test_a_photograph_is_refused(tmp_path: Path, photograph: np.ndarray) -> None:
    Image.fromarray(photograph).convert("L").save(tmp_path / "mask.png")
    with pytest.raises(MaskError, match="photograph"):
        read_first_mask(tmp_path / "mask.png", photograph.shape[:2])


def test_unreadable_and_missing_files_have_different_errors(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("no picture")
    with pytest.raises(MaskError, match="not a readable image"):
        read_mask(tmp_path / "mask.png")
    with pytest.raises(NotFoundError, match="no such mask"):
        read_mask(tmp_path / "other.png")


def test_values_beyond_a_byte_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 300, dtype=np.uint16)).save(tmp_path / "mask.png")
    with pytest.raises(MaskError, match=r"outside 0\.\.255"):
        read_mask(tmp_path / "mask.png")


def test_an_overlay_leaves_the_background_unchanged(moving_frames: np.ndarray) -> None:
    mask = np.zeros((160, 192), dtype=np.uint8)
    mask[20:40, 30:60] = 200
    tinted = blend(moving_frames[0], mask)
    np.testing.assert_array_equal(tinted[mask == 0], moving_frames[0][mask == 0])
    np.testing.assert_array_equal(tinted[20, 30], bright_palette()[200])
    assert bright_palette().shape == (256, 3)
