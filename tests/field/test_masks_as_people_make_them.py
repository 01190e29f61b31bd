"""A mask is read as exactly the objects drawn in it, or refused with one sentence."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from corrfractal.common.errors import MaskError
from inference.prompts.mask_images import palette, read_first_mask, read_mask, write_mask

SIZE = (120, 160)


def disk(radius: int = 30, value: int = 255) -> np.ndarray:
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    return np.where((x - 80) ** 2 + (y - 60) ** 2 <= radius**2, value, 0).astype(np.uint8)


def smooth(value: int = 255) -> np.ndarray:
    """An anti-aliased disk."""
    mask = np.zeros(SIZE, dtype=np.uint8)
    cv2.circle(mask, (80, 60), 30, value, -1, cv2.LINE_AA)
    return mask


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="JPEG", quality=quality)
    return np.array(Image.open(encoded))


def with_alpha(color: int, alpha: np.ndarray, mode: str) -> Image.Image:
    image = Image.new(mode, (SIZE[1], SIZE[0]), (color,) * (1 if mode == "LA" else 3) + (0,))
    image.putalpha(Image.fromarray(alpha))
    return image


ONE_OBJECT = {
    "white": Image.fromarray(disk()),
    "smooth": Image.fromarray(smooth()),
    "smooth in grey": Image.fromarray(smooth(128)),
    "JPEG as PNG": Image.fromarray(jpeg(disk(), 75)),
    "bad JPEG as PNG": Image.fromarray(jpeg(smooth(), 30)),
    "resized": Image.fromarray(
        cv2.resize(disk()[::2, ::2], SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    ),
    "two whites": Image.fromarray(np.where(np.arange(SIZE[1]) % 40 < 20, disk(value=254), disk())),
    "white with alpha": with_alpha(255, disk(), "RGBA"),
    "black with alpha": with_alpha(0, disk(), "RGBA"),
    "white with smooth alpha": with_alpha(255, smooth(), "RGBA"),
    "LA": with_alpha(255, disk(), "LA"),
    "RGB": Image.fromarray(disk()).convert("RGB"),
    "1 bit": Image.fromarray(disk()).convert("1"),
    "16 bits": Image.fromarray(disk().astype(np.uint16) * 257),
}


@pytest.mark.parametrize("name", ONE_OBJECT)
def test_a_drawing_of_one_object_is_one_object(tmp_path: Path, name: str) -> None:
    ONE_OBJECT[name].save(tmp_path / "mask.png")
    mask = read_first_mask(tmp_path / "mask.png", SIZE)
    assert np.unique(mask).tolist() == [0, 1]
    assert abs(int((mask > 0).sum()) - int((disk() > 0).sum())) < 250


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_jpeg_of_one_object_is_one_object(tmp_path: Path, quality: int) -> None:
    Image.fromarray(disk()).save(tmp_path / "mask.jpg", quality=quality)
    assert np.unique(read_first_mask(tmp_path / "mask.jpg", SIZE)).tolist() == [0, 1]


def test_the_exif_orientation_of_a_jpeg_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(disk()).save(tmp_path / "mask.jpg", exif=exif)
    assert read_first_mask(tmp_path / "mask.jpg", SIZE[::-1]).shape == SIZE[::-1]


def two(first: int, second: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[20:60, 20:60] = first
    mask[50:100, 70:140] = second
    return mask


def enlarged(mask: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(mask, SIZE[::-1], interpolation=cv2.INTER_LINEAR))


@pytest.mark.parametrize(
    "mask",
    [
        enlarged(two(1, 3)[::2, ::2]),
        enlarged(two(128, 255)[::2, ::2]),
        jpeg(two(128, 255), 75),
        jpeg(two(20, 60), 75),
        cv2.GaussianBlur(disk(), (31, 31), 9),
        np.full(SIZE, 255, dtype=np.uint8) - (np.arange(SIZE[1], dtype=np.uint8) % 2),
    ],
    ids=[
        "ids resized",
        "greys resized",
        "greys as JPEG",
        "ids as JPEG",
        "blurred",
        "white without background",
    ],
)
def test_values_that_are_not_ids_are_refused(tmp_path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with pytest.raises(
        MaskError, match=r"mask\.png holds .* save it as PNG with one flat value per object"
    ):
        read_first_mask(tmp_path / "mask.png", SIZE)


def test_several_objects_keep_their_ids(tmp_path: Path) -> None:
    thin = two(1, 3)
    thin[10, 10:150] = 2
    thin[60:110, 65] = 4
    flags = two(128, 255)
    diagonal = np.diag(np.full(120, 5, dtype=np.uint8))
    for number, mask in enumerate((thin, flags, two(1, 2), two(254, 7), diagonal)):
        write_mask(tmp_path / "palette.png", mask)
        Image.fromarray(mask).save(tmp_path / "grey.png")
        for name in ("palette.png", "grey.png"):
            np.testing.assert_array_equal(
                read_first_mask(tmp_path / name, mask.shape), mask, err_msg=str(number)
            )


def test_a_palette_with_clear_entries_keeps_its_ids_and_a_sorted_one_is_read_by_colour(
    tmp_path: Path,
) -> None:
    image = Image.fromarray(two(1, 2))
    image.putpalette(palette().tobytes())
    image.save(tmp_path / "clear.png", transparency=bytes([0, 128, 200]))
    np.testing.assert_array_equal(read_first_mask(tmp_path / "clear.png", SIZE), two(1, 2))
    swapped = Image.fromarray((disk() == 0).astype(np.uint8))
    swapped.putpalette(bytes([255, 255, 255, 0, 0, 0]))
    swapped.save(tmp_path / "sorted.png")
    np.testing.assert_array_equal(read_first_mask(tmp_path / "sorted.png", SIZE), disk(value=1))


def test_ids_of_16_bits_are_read_plain_or_stretched(tmp_path: Path) -> None:
    for factor in (1, 256, 257):
        Image.fromarray(two(1, 3).astype(np.uint16) * factor).save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_first_mask(tmp_path / "mask.png", SIZE), two(1, 3))
    Image.fromarray(two(1, 3).astype(np.uint16) * 300).save(tmp_path / "mask.png")
    with pytest.raises(MaskError, match=r"outside 0\.\.255"):
        read_first_mask(tmp_path / "mask.png", SIZE)


def test_each_real_soft_mask_is_one_object(data_dir: Path) -> None:
    for name in ("aa_poly.png", "mask.jpg", "mask75.jpg", "rgba_white.png", "la.png"):
        mask = read_first_mask(data_dir / "field" / "soft-masks" / name, (240, 320))
        assert np.unique(mask).tolist() == [0, 1], name
        assert 2900 < (mask > 0).sum() < 3700, name


def test_real_annotations_keep_every_id(data_dir: Path) -> None:
    files = [
        *list((data_dir / "davis2017" / "Annotations").rglob("*.png"))[::4],
        *list((data_dir / "davis2016_train_masks").rglob("*.png"))[::40],
        *(
            path
            for path in (data_dir / "multiobject_240p").rglob("*.png")
            if "Images" not in str(path)
        ),
    ]
    assert len(files) > 200
    for path in files:
        with Image.open(path) as image:
            stored = np.array(image)
        np.testing.assert_array_equal(read_mask(path), stored)
        if stored.any():
            only_white = np.unique(stored[stored > 0]).tolist() == [255]
            expected = np.where(stored == 255, 1, stored) if only_white else stored
            np.testing.assert_array_equal(
                read_first_mask(path, stored.shape), expected, err_msg=str(path)
            )


def test_the_void_rim_of_voc_is_background_and_an_object_of_255_is_not(
    tmp_path: Path,
) -> None:
    mask = disk(value=1)
    mask[(disk(35) > 0) & (mask == 0)] = 255
    mask[:20, :20] = 2
    write_mask(tmp_path / "voc.png", mask)
    np.testing.assert_array_equal(
        read_first_mask(tmp_path / "voc.png", SIZE), np.where(mask == 255, 0, mask)
    )
    many = np.zeros(SIZE, dtype=np.uint8)
    many[10:40, 10:40] = 3
    many[50:80, 50:80] = 255
    write_mask(tmp_path / "many.png", many)
    np.testing.assert_array_equal(read_first_mask(tmp_path / "many.png", SIZE), many)
