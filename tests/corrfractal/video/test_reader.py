from __future__ import annotations

import re
import shutil
import textwrap

import cv2
import numpy as np
import pytest
from reference_resize import slow_area_mean

import corrfractal.video
from corrfractal.common.errors import NotFoundError, VideoError
from corrfractal.video import decoders, open_video, resize_area, write_video


def test_decord_and_pyav_agree_on_frames_and_times(tiny_video, moving_frames):
    decord = open_video(tiny_video, "decord")
    pyav = open_video(tiny_video, "pyav")
    decord_images = np.stack([frame.image for frame in decord.frames()])
    pyav_images = np.stack([frame.image for frame in pyav.frames()])
    assert len(decord_images) == len(pyav_images) == 24
    assert np.abs(decord_images.astype(int) - pyav_images).mean() < 1
    assert np.abs(decord_images.astype(int) - moving_frames).mean() < 8
    np.testing.assert_allclose(decord.times(), pyav.times(), atol=1e-3)
    np.testing.assert_allclose(decord.times(), np.arange(24) / 24, atol=1e-3)
    assert decord.info.fps == pytest.approx(pyav.info.fps) == pytest.approx(24)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_chosen_frames_are_those_of_a_full_read(tiny_video, decoder):
    video = open_video(tiny_video, decoder)
    images = [frame.image for frame in video.frames()]
    for frame in video.frames([2, 3, 17, 23]):
        np.testing.assert_array_equal(frame.image, images[frame.index])


@pytest.mark.parametrize(
    ("height", "width", "decoder"), [(64, 96, "pyav"), (48, 32, "pyav"), (160, 160, "decord")]
)
def test_narrow_videos_are_read_by_the_same_decoder_on_every_processor(
    moving_frames, tmp_path, height, width, decoder
):
    sent = moving_frames[:3, :height, :width]
    write_video(tmp_path / "narrow.mp4", sent, fps=10)
    video = open_video(tmp_path / "narrow.mp4")
    received = np.stack([frame.image for frame in video.frames()])
    assert (video.info.decoder, received.shape) == (decoder, sent.shape)
    assert np.abs(received.astype(int) - sent).mean() < 12


def test_scaled_frames_are_upright_and_close_to_the_area_mean(data_dir):
    for name in (
        "train_videos/bear.mp4",
        "odd_videos/decord_rot90.mov",
        "videos/media3_vp9_642x642.webm",
    ):
        scaled = open_video(data_dir / name, size=(200, 240))
        full_size = open_video(data_dir / name)
        assert (scaled.info.height, scaled.info.width, scaled.info.decoder) == (200, 240, "decord")
        pairs = zip(scaled.frames([0, 2]), full_size.frames([0, 2]), strict=True)
        for small, large in pairs:
            expected = resize_area(large.image, 200, 240)
            assert small.image.shape == (200, 240, 3)
            assert np.abs(small.image.astype(int) - expected).mean() < 4


def test_dropping_frames_that_were_read_ahead_changes_no_frame(data_dir, monkeypatch):
    video = open_video(data_dir / "videos" / "moviepy_bbb_0_30.webm", size=(256, 256))
    assert video.info.decoder == "decord"
    kept = list(video.frames(range(0, 160, 3)))
    # Frames are now dropped at each of the four key frames.
    monkeypatch.setattr(decoders, "READ_AHEAD_MB", -1e9)
    for frame, expected in zip(video.frames(range(0, 160, 3)), kept, strict=True):
        assert frame.index == expected.index
        np.testing.assert_array_equal(frame.image, expected.image)


@pytest.mark.parametrize("name", ["decord_rot90.mov", "decord_rot270.mov"])
def test_both_decoders_return_a_rotated_video_upright(data_dir, name):
    decord = open_video(data_dir / "odd_videos" / name, "decord")
    pyav = open_video(data_dir / "odd_videos" / name, "pyav")
    first = next(iter(decord.frames())).image
    second = next(iter(pyav.frames())).image
    assert first.shape == second.shape == (568, 320, 3)
    assert (decord.info.height, decord.info.width) == (568, 320)
    assert np.abs(first.astype(int) - second).mean() < 2


def test_a_frame_folder_is_a_video_in_natural_order(tmp_path, moving_frames):
    for t in range(12):
        cv2.imwrite(str(tmp_path / f"frame_{t}.png"), moving_frames[t][..., ::-1])
    (tmp_path / "note.txt").write_text("no frame")
    frames = [frame.image for frame in open_video(tmp_path).frames()]
    np.testing.assert_array_equal(np.stack(frames), moving_frames[:12])


@pytest.mark.parametrize(
    ("suffix", "size", "shape"),
    [
        ("jpg", (41, 49), (80, 96, 3)),
        ("jpg", (81, 40), (160, 192, 3)),
        ("png", (40, 40), (160, 192, 3)),
    ],
)
def test_jpegs_are_read_at_a_fraction_that_is_not_smaller_than_asked(
    tmp_path, moving_frames, suffix, size, shape
):
    assert moving_frames[0].shape == (160, 192, 3)
    cv2.imwrite(str(tmp_path / f"0.{suffix}"), moving_frames[0][..., ::-1])
    video = open_video(tmp_path, size=size)
    assert (video.info.height, video.info.width) == (160, 192)
    image = next(iter(video.frames())).image
    assert image.shape == shape
    expected = resize_area(moving_frames[0], 40, 48)
    assert np.abs(resize_area(image, 40, 48).astype(int) - expected).mean() < 3


def test_a_damaged_image_is_named_with_its_index(tmp_path, moving_frames):
    for t in range(3):
        cv2.imwrite(str(tmp_path / f"{t}.jpg"), moving_frames[t])
    (tmp_path / "1.jpg").write_bytes(b"no image")
    with pytest.raises(VideoError, match=r"at frame 1: 1\.jpg: not an image"):
        list(open_video(tmp_path).frames())


def test_a_video_that_decord_cannot_open_is_read_by_pyav(data_dir):
    path = data_dir / "odd_videos" / "moviepy_no_duration.webm"
    with pytest.raises(VideoError, match="cannot open"):
        open_video(path, "decord")
    assert len(list(open_video(path).frames())) == 74


def test_a_video_whose_clock_decord_gets_wrong_is_read_by_pyav(data_dir):
    video = open_video(data_dir / "odd_videos" / "exo_vp9_10bit.webm")
    assert video.info.decoder == "pyav"
    assert len(list(video.frames())) == 72


def test_times_ascend_in_every_odd_video_that_opens(data_dir):
    for path in sorted((data_dir / "odd_videos").iterdir()):
        try:
            video = open_video(path)
        except VideoError:
            continue
        assert (np.diff(video.times()) > 0).all(), path
        assert np.isfinite(video.times()).all(), path


def test_pyav_stops_before_the_first_damaged_frame(data_dir):
    video = open_video(data_dir / "odd_videos" / "derived_bitflips.mp4", "pyav")
    seen = []
    with pytest.raises(VideoError, match="at frame 54") as caught:
        seen.extend(frame.index for frame in video.frames())
    assert seen == list(range(54))
    assert caught.value.frame == 54


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 50])
def test_a_file_that_is_not_a_video_raises_one_sentence(tmp_path, content):
    path = tmp_path / "text.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"cannot open the video .*text\.mp4: \w") as caught:
        open_video(path)
    assert "\n" not in str(caught.value)


def test_a_missing_video_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="missing"):
        open_video(tmp_path / "missing.mp4")
    with pytest.raises(NotFoundError, match="no JPEG or PNG"):
        open_video(tmp_path)


def test_shrinking_averages_and_growing_interpolates():
    image = np.zeros((4, 4, 3), np.uint8)
    image[::2] = 200
    assert (resize_area(image, 2, 2) == 100).all()
    assert resize_area(image, 9, 7).shape == (9, 7, 3)
    assert resize_area(image, 4, 4) is image


@pytest.mark.parametrize("size", [(23, 40), (7, 11), (1, 1), (40, 13)])
def test_shrinking_equals_the_slow_mean_over_areas(size):
    image = np.random.default_rng(0).integers(0, 256, (40, 53, 3)).astype(np.uint8)
    difference = resize_area(image, *size).astype(int) - slow_area_mean(image, *size)
    # A mean halfway between two levels may be rounded either way.
    assert np.abs(difference).max() <= 1


def test_a_slice_of_an_image_can_be_shrunk(moving_frames):
    part = moving_frames[0][10:90, 20:150]
    np.testing.assert_array_equal(resize_area(part, 30, 40), resize_area(part.copy(), 30, 40))


def test_a_video_of_odd_size_can_be_written(tmp_path, moving_frames):
    assert write_video(tmp_path / "odd.mp4", moving_frames[:3, :77, :101], fps=10) == 3
    info = open_video(tmp_path / "odd.mp4").info
    assert (info.height, info.width, info.frames) == (76, 100, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["odd.mp4"]


def test_the_reason_of_a_failure_does_not_mention_videos_read_before(data_dir, tmp_path):
    """PyAV appends the last line of FFmpeg's log, even if it is about another file."""
    (tmp_path / "text.mp4").write_text("this is no video\n" * 20)
    for path in (data_dir / "odd_videos" / "derived_bitflips.mp4", tmp_path / "text.mp4"):
        with pytest.raises(VideoError) as caught:
            list(open_video(path, "pyav").frames())
    assert caught.value.reason == "Invalid data found when processing input"


def test_the_example_in_the_package_docstring_runs(tiny_video, tmp_path, monkeypatch, capsys):
    shutil.copy(tiny_video, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"::\n\n((?: {4}.*\n)+)", corrfractal.video.__doc__)
    exec(textwrap.dedent(example), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "24 24.0 160 192"
    assert [line.split()[0] for line in lines[1:]] == ["0", "10", "20"]
