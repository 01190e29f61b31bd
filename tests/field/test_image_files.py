"""One reader for image files: size limited by the header, complete or refused, independent of the
name."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from corrfractal.common.errors import MaskError, NotFoundError, VideoError
from corrfractal.shards.manifest import Sidecar, read_sealed, sidecar_name
from corrfractal.video import open_video
from corrfractal.video.images import ImageError, image_size, open_image, read_image
from inference.datasets.folders import read_picture
from inference.prompts.mask_images import read_mask
from pipeline.config import PipelineConfig
from pipeline.discover.sources import find_sources
from pipeline.discover.work_plan import make_plan
from pipeline.store.shard_task import make_shard


def encoded(image, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=form, **options)
    return buffer.getvalue()


def bomb(side):
    """A valid PNG header of ``side`` x ``side`` pixels with almost no data."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.fixture
def frames(tmp_path, moving_frames):
    """Twelve JPEG frames, named from 00001 on."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for t in range(12):
        (folder / f"{t + 1:05d}.jpg").write_bytes(encoded(moving_frames[t], "JPEG", quality=95))
    return folder


def outcome(folder, out):
    out.mkdir()
    config = PipelineConfig()
    (spec,) = make_plan(find_sources([str(folder)], skip=str(out)), config, {}).shards
    make_shard(spec, str(out), config)
    (entry,) = read_sealed(str(out / sidecar_name(spec.name)), Sidecar).sources
    return entry


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_has_the_pixels_of_opencv_at_every_fraction(tmp_path, moving_frames, options):
    path = tmp_path / "frame.jpg"
    path.write_bytes(encoded(moving_frames[0], "JPEG", quality=90, **options))
    modes = {
        1: cv2.IMREAD_COLOR_RGB,
        2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }
    for reduce, mode in modes.items():
        np.testing.assert_array_equal(read_image(path, reduce), cv2.imread(str(path), mode))


@pytest.mark.parametrize("mark", range(1, 9))
def test_every_exif_orientation_is_shown_as_opencv_shows_it(tmp_path, moving_frames, mark):
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[0x0112] = mark
    path.write_bytes(encoded(moving_frames[0][:96], "JPEG", exif=exif))
    expected = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP", "TIFF", "JPEG"])
def test_the_content_decides_the_format_and_not_the_name(tmp_path, moving_frames, form):
    options = {"lossless": True} if form == "WEBP" else {}
    path = tmp_path / "crawled.jpg"
    path.write_bytes(encoded(moving_frames[0], form, **options))
    image = read_image(path)
    error = np.abs(image.astype(int) - moving_frames[0]).max()
    assert image.shape == moving_frames[0].shape
    assert error == 0 or form == "JPEG"
    assert image_size(path) == moving_frames[0].shape[:2]


@pytest.mark.parametrize("side", [20_000, 60_000, 2_000_000_000])
def test_a_header_that_claims_too_much_is_refused_before_decoding(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side))
    for read in (read_image, open_image, image_size):
        with pytest.raises(ImageError, match=r"bomb\.png"):
            read(path)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_cut_image_is_refused(tmp_path, moving_frames, form, share):
    data = encoded(moving_frames[0], form)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * share)])
    for read in (read_image, open_image):
        with pytest.raises(ImageError):
            read(path)


def test_every_flipped_bit_of_a_png_is_detected(tmp_path, moving_frames, capfd):
    data = encoded(moving_frames[0], "PNG")
    rng = random.Random(0)
    path = tmp_path / "flipped.png"
    for _ in range(50):
        damaged = bytearray(data)
        damaged[rng.randrange(8, len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ImageError):
            read_image(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("damage", ["zeros", "gone"])
def test_a_jpeg_damaged_in_the_middle_is_refused(tmp_path, photograph, damage):
    data = bytearray(encoded(photograph, "JPEG", quality=90))
    middle = len(data) // 2
    if damage == "zeros":
        data[middle : middle + 2000] = bytes(2000)
    else:
        del data[middle : middle + 700]
    path = tmp_path / "damaged.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        read_image(path)


def test_every_genuine_frame_and_annotation_is_read(data_dir):
    for path in sorted((data_dir / "davis2017" / "JPEGImages" / "480p").glob("*/0001*.jpg")):
        np.testing.assert_array_equal(read_image(path), cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))
    for path in sorted((data_dir / "davis2017" / "Annotations" / "480p").glob("*/0001*.png")):
        np.testing.assert_array_equal(np.array(open_image(path)), np.array(Image.open(path)))


def test_animated_images_are_refused_as_frames(tmp_path, moving_frames):
    pictures = [Image.fromarray(image) for image in moving_frames[:3]]
    for form in ("PNG", "WEBP", "TIFF"):
        path = tmp_path / f"animated.{form.lower()}"
        pictures[0].save(path, format=form, save_all=True, append_images=pictures[1:])
        with pytest.raises(ImageError, match="several pictures"):
            read_image(path)


def test_what_is_not_a_file_is_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "missing.png", "."):
        with pytest.raises(ImageError):
            read_image(tmp_path / name)


def test_a_frame_folder_with_a_bad_header_is_quarantined(data_dir, tmp_path):
    folder = data_dir / "field" / "bad-header" / "frames"
    entry = outcome(folder, tmp_path / "out")
    assert entry.outcome == "quarantined"
    assert "megapixels" in entry.reason


def test_cut_jpegs_are_never_sampled(data_dir, tmp_path):
    entry = outcome(data_dir / "field" / "cut-jpegs" / "frames", tmp_path / "out")
    assert (entry.outcome, entry.clips) == ("quarantined", 0)
    assert "cut short" in entry.reason


def test_a_frame_cut_in_the_middle_of_a_folder_is_named(frames):
    cut_frame = frames / "00005.jpg"
    cut_frame.write_bytes(cut_frame.read_bytes()[:2000])
    seen = []
    with pytest.raises(VideoError, match=r"frames at frame 4: 00005\.jpg: the image"):
        seen.extend(frame.index for frame in open_video(frames).frames())
    assert seen == [0, 1, 2, 3]
    with pytest.raises(VideoError, match=r"00005\.jpg"):
        read_picture(cut_frame, 4)


def test_names_that_are_not_utf8_are_read(tmp_path, frames):
    for file in sorted(frames.iterdir()):
        file.rename(frames / os.fsdecode(b"caf\xe9_" + os.fsencode(file.name)))
    assert len(list(open_video(frames).frames())) == 12


def test_digits_of_other_scripts_do_not_break_the_order(frames):
    for name in ("٣1.jpg", "²5.jpg", "frame.jpg"):
        (frames / name).write_bytes((frames / "00001.jpg").read_bytes())
    assert len(list(open_video(frames).frames())) == 15


def test_a_frame_and_its_mask_in_one_folder_are_refused(frames, moving_frames):
    (frames / "00001.png").write_bytes(encoded(moving_frames[0], "PNG"))
    with pytest.raises(VideoError, match=r"00001\.jpg and 00001\.png are two images of one frame"):
        open_video(frames)


def test_a_folder_named_like_an_image_is_not_a_frame(frames):
    (frames / "00013.jpg").mkdir()
    assert open_video(frames).info.frames == 12


def test_frames_are_named_by_their_files(frames, tiny_video):
    assert open_video(frames).names()[:2] == ["00001", "00002"]
    assert open_video(tiny_video).names()[:2] == ["00000", "00001"]


def test_a_mask_is_read_by_the_same_reader(tmp_path, moving_frames):
    path = tmp_path / "mask.png"
    path.write_bytes(bomb(60_000))
    with pytest.raises(MaskError, match=r"mask\.png"):
        read_mask(path)
    data = encoded((moving_frames[0][..., 0] > 128).astype(np.uint8), "PNG")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MaskError, match=r"mask\.png"):
        read_mask(path)
    with pytest.raises(NotFoundError):
        read_mask(tmp_path / "none.png")
