"""Frame folders with unusual images: the picture that a viewer shows, or an error that names the
file."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from corrfractal.common.errors import CorrFractalError, VideoError
from corrfractal.video import open_video
from tests.field.build_inputs import U8, numbers, picture, read_until_error

Saver = Callable[[Path, U8], None]


def noisy(number: int) -> U8:
    """A picture that compresses badly, so that damage in the middle of its file hits pixels."""
    noise = np.random.default_rng(number).integers(-30, 30, picture(number).shape)
    return (picture(number) + noise).clip(0, 255).astype(np.uint8)


def jpeg(image: U8, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header: bytes, rows: bytes, before: bytes = b"") -> bytes:
    compressed = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + compressed + chunk(b"IEND", b"")


def plain_png(image: U8, before: bytes = b"") -> bytes:
    height, width = image.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), rows, before)


def interlaced_png(image: U8) -> bytes:
    """A PNG in seven passes (ISO 15948, section 8.2)."""
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = b""
    for left, top, across, down in passes:
        rows += b"".join(b"\0" + row.tobytes() for row in image[top::down, left::across])
    height, width = image.shape[:2]
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1), rows)


def turned(image: U8) -> tuple[Image.Image, Image.Exif]:
    """The picture as an upright phone stores it, and the EXIF tag that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return Image.fromarray(np.ascontiguousarray(np.rot90(image))), exif


def save_turned(path: Path, image: U8) -> None:
    stored, exif = turned(image)
    stored.save(path, exif=exif)


SAVERS: dict[str, tuple[str, Saver]] = {
    "CMYK": (
        ".jpg",
        lambda path, image: Image.fromarray(image).convert("CMYK").save(path, quality=95),
    ),
    "progressive": (
        ".jpg",
        lambda path, image: Image.fromarray(image).save(path, progressive=True, quality=95),
    ),
    "turned JPEG": (".jpg", save_turned),
    "turned PNG": (".png", save_turned),
    "16 bits": (
        ".png",
        lambda path, image: cv2.imwrite(str(path), image[..., ::-1].astype(np.uint16) * 257),
    ),
    "palette": (".png", lambda path, image: Image.fromarray(image).quantize(200).save(path)),
    "palette with transparency": (
        ".png",
        lambda path, image: Image.fromarray(image).quantize(200).save(path, transparency=0),
    ),
    "almost transparent": (
        ".png",
        lambda path, image: Image.fromarray(
            np.dstack([image, np.full(image.shape[:2], 3, np.uint8)])
        ).save(path),
    ),
    "interlaced": (".png", lambda path, image: path.write_bytes(interlaced_png(image))),
    "WebP of another name": (
        ".jpg",
        lambda path, image: Image.fromarray(image).save(path, "WEBP", lossless=True),
    ),
    "TIFF of another name": (".png", lambda path, image: Image.fromarray(image).save(path, "TIFF")),
    "motion photo": (
        ".jpg",
        lambda path, image: path.write_bytes(jpeg(image) + b"\0\0\0\x18ftypmp42" + bytes(5000)),
    ),
    "stereo pair": (
        ".jpg",
        lambda path, image: Image.fromarray(image).save(
            path, "MPO", save_all=True, append_images=[Image.fromarray(picture(99))], quality=95
        ),
    ),
    "upper case": (
        ".JPG",
        lambda path, image: Image.fromarray(image).save(path, "JPEG", quality=95),
    ),
}


@pytest.mark.parametrize("size", [None, (40, 48)], ids=["full size", "reduced"])
@pytest.mark.parametrize("kind", SAVERS)
def test_a_frame_is_the_picture_that_a_viewer_shows(tmp_path, kind, size):
    suffix, save = SAVERS[kind]
    for number in range(3):
        save(tmp_path / f"{number}{suffix}", picture(number))
    frames = list(open_video(tmp_path, size=size).frames())
    assert numbers(frames) == [0, 1, 2]
    for frame in frames:
        seen = cv2.resize(frame.image, (192, 160))
        assert np.abs(seen.astype(int) - picture(frame.index)).mean() < 5


def test_grey_frames_with_and_without_alpha_are_grey_rgb(tmp_path):
    Image.fromarray(picture(0)).convert("LA").save(tmp_path / "0.png")
    Image.fromarray(picture(1)).convert("L").save(tmp_path / "1.png")
    frames = list(open_video(tmp_path).frames())
    assert numbers(frames) == [0, 1]
    assert all((frame.image[..., 0] == frame.image[..., 2]).all() for frame in frames)


def flip_bits(data: bytes) -> bytes:
    changed = bytearray(data)
    for position in np.random.default_rng(1).integers(len(data) // 3, len(data) - 10, 20):
        changed[position] ^= 0x41
    return bytes(changed)


def flip_one_bit(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(data) // 2] ^= 16
    return bytes(changed)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"

DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "flipped bits": (".jpg", flip_bits),
    "a block of zeros": (
        ".jpg",
        lambda data: data[: len(data) // 2] + bytes(2000) + data[len(data) // 2 + 2000 :],
    ),
    "a block missing": (
        ".jpg",
        lambda data: data[: len(data) // 2] + data[len(data) // 2 + 700 :],
    ),
    "cut": (".jpg", lambda data: data[: len(data) // 2]),
    "a flipped bit in a PNG": (".png", flip_one_bit),
    "a PNG without its end": (".png", lambda data: data[:-12]),
    "a cut PNG": (".png", lambda data: data[: len(data) // 2]),
    "no bytes": (".png", lambda data: b""),
    "a Git LFS pointer": (".jpg", lambda data: POINTER),
    "a web page": (".jpg", lambda data: b"<!DOCTYPE html><html>404</html>"),
}


@pytest.mark.parametrize("size", [None, (40, 48)], ids=["full size", "reduced"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_frame_raises_an_error_that_names_it(tmp_path, kind, size):
    """OpenCV and Pillow return a picture that is wrong below the damage (OpenCV issue 17862)."""
    suffix, damage = DAMAGE[kind]
    for number in range(4):
        Image.fromarray(noisy(number)).save(tmp_path / f"{number}{suffix}", quality=90)
    bad = tmp_path / f"2{suffix}"
    bad.write_bytes(damage(bad.read_bytes()))
    seen, error = read_until_error(open_video(tmp_path, size=size))
    assert numbers(seen) == [0, 1]
    assert error is not None
    assert error.frame == 2
    assert bad.name in str(error)


@pytest.mark.parametrize(
    "marker", [b"\xff\xdb", b"\xff\xd9"], ids=["before the tables", "before the end"]
)
def test_stray_bytes_between_the_segments_of_an_intact_jpeg_are_not_damage(tmp_path, marker):
    """Logitech webcams write them (OpenCV issue 9477); the picture is complete."""
    data = jpeg(picture(5))
    position = data.rindex(marker)
    (tmp_path / "0.jpg").write_bytes(data[:position] + b"\x55" * 11 + data[position:])
    assert numbers(open_video(tmp_path).frames()) == [5]


def test_a_png_with_megabytes_of_text_is_read(tmp_path):
    """Image generators store their whole workflow in each frame."""
    text = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(3_000_000)))
    (tmp_path / "0.png").write_bytes(plain_png(picture(5), before=text))
    assert numbers(open_video(tmp_path).frames()) == [5]


def test_a_small_file_that_decompresses_to_a_gigapixel_is_refused(tmp_path):
    rows = zlib.compressobj()
    packed = b"".join(rows.compress(bytes(30_000 // 8 + 1)) for _ in range(3000)) + rows.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )
    assert len(data) < 100_000
    (tmp_path / "0.png").write_bytes(data)
    with pytest.raises(VideoError, match=r"0\.png"):
        list(open_video(tmp_path).frames())


def test_frames_and_masks_of_the_same_names_in_one_folder_are_not_mixed(tmp_path):
    """Users of XMem and SAM 2 store them so: each mask was read as the frame after its own."""
    for number in range(3):
        Image.fromarray(picture(number)).save(tmp_path / f"{number:05d}.jpg")
        Image.fromarray(picture(number)).convert("1").save(tmp_path / f"{number:05d}.png")
    with pytest.raises(CorrFractalError, match=r"00000\.jpg and 00000\.png"):
        list(open_video(tmp_path).frames())


def test_frames_without_leading_zeros_are_ordered_by_number(tmp_path):
    """SAM 2 issue 170 and many others."""
    for number in (1, 2, 9, 10, 11, 100):
        Image.fromarray(picture(number)).save(tmp_path / f"shot2_frame{number}.png")
    assert numbers(open_video(tmp_path).frames()) == [1, 2, 9, 10, 11, 100]


def test_digits_of_other_scripts_in_names_are_accepted(tmp_path):
    for number, name in enumerate(
        ("\u0663" + "1.png", "1.png", "x2.png", "\u00b2.png", "\uff11" + "1.png")
    ):
        Image.fromarray(picture(number)).save(tmp_path / name)
    assert sorted(numbers(open_video(tmp_path).frames())) == [0, 1, 2, 3, 4]


def test_a_folder_named_like_a_frame_is_ignored(tmp_path):
    for number in (0, 2):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "1.jpg").mkdir()
    assert numbers(open_video(tmp_path).frames()) == [0, 2]


def test_a_frame_folder_may_be_named_like_a_video_file(tmp_path):
    folder = tmp_path / "take.mp4"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(picture(number)).save(folder / f"{number}.jpg")
    assert numbers(open_video(folder).frames()) == [0, 1, 2]
