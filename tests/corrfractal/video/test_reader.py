from __future__ import annotations

import cv2
import numpy as np
import pytest
from reference_resize import slow_area_mean

from corrfractal.common.errors import NotFoundError, VideoError
from corrfractal.video import decoders, open_video, resize_area, write_video


@pytest.fixture
def long_mkv(swaying_frames, tmp_path):
    """2.5 s in a container that survives being cut."""
    path = tmp_path / "long.mkv"
    write_video(path, swaying_frames(60), fps=24)
    return path


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def test_decord_and_pyav_agree_on_frames_and_times(tiny_video, moving_frames):
    videos = [open_video(tiny_video, decoder) for decoder in ("decord", "pyav")]
    a, b = ([frame.image for frame in video.frames()] for video in videos)
    assert len(a) == len(b) == 24
    assert np.abs(np.stack(a).astype(int) - np.stack(b)).mean() < 1
    assert np.abs(np.stack(a).astype(int) - moving_frames).mean() < 8
    np.testing.assert_allclose(videos[0].times(), videos[1].times(), atol=1e-3)
    np.testing.assert_allclose(videos[0].times(), np.arange(24) / 24, atol=1e-3)
    assert videos[0].info.fps == pytest.approx(videos[1].info.fps) == pytest.approx(24)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_chosen_frames_are_those_of_a_full_read(tiny_video, decoder):
    video = open_video(tiny_video, decoder)
    whole = [frame.image for frame in video.frames()]
    for frame in video.frames([2, 3, 17, 23]):
        np.testing.assert_array_equal(frame.image, whole[frame.index])


@pytest.mark.parametrize(
    ("height", "width", "decoder"), [(64, 96, "pyav"), (48, 32, "pyav"), (160, 160, "decord")]
)
def test_narrow_videos_are_rgb_by_the_same_decoder_on_every_processor(
    moving_frames, tmp_path, height, width, decoder
):
    sent = moving_frames[:3, :height, :width]
    write_video(tmp_path / "narrow.mp4", sent, fps=10)
    video = open_video(tmp_path / "narrow.mp4")
    got = np.stack([frame.image for frame in video.frames()])
    assert (video.info.decoder, got.shape) == (decoder, sent.shape)
    assert np.abs(got.astype(int) - sent).mean() < 12


def test_frames_that_come_scaled_are_upright_and_near_the_area_mean(data_dir):
    for name in (
        "train_videos/bear.mp4",
        "odd_videos/decord_rot90.mov",
        "videos/media3_vp9_642x642.webm",
    ):
        scaled, whole = open_video(data_dir / name, size=(200, 240)), open_video(data_dir / name)
        assert (scaled.info.height, scaled.info.width, scaled.info.decoder) == (200, 240, "decord")
        for ours, theirs in zip(
            scaled.frames(range(0, 3, 2)), whole.frames(range(0, 3, 2)), strict=True
        ):
            assert ours.image.shape == (200, 240, 3)
            assert np.abs(ours.image.astype(int) - resize_area(theirs.image, 200, 240)).mean() < 4


def test_forgetting_what_was_read_ahead_changes_no_frame(data_dir, monkeypatch):
    video = open_video(data_dir / "videos" / "moviepy_bbb_0_30.webm", size=(256, 256))
    assert video.info.decoder == "decord"
    kept = list(video.frames(range(0, 160, 3)))
    # At every key frame, of which there are four
    monkeypatch.setattr(decoders, "READ_AHEAD_MB", -1e9)
    for ours, theirs in zip(video.frames(range(0, 160, 3)), kept, strict=True):
        assert ours.index == theirs.index
        np.testing.assert_array_equal(ours.image, theirs.image)


@pytest.mark.parametrize("name", ["decord_rot90.mov", "decord_rot270.mov"])
def test_a_rotated_video_stands_upright_in_both_decoders(data_dir, name):
    a, b = (open_video(data_dir / "odd_videos" / name, decoder) for decoder in ("decord", "pyav"))
    first, second = next(iter(a.frames())).image, next(iter(b.frames())).image
    assert first.shape == second.shape == (568, 320, 3) == (a.info.height, a.info.width, 3)
    assert np.abs(first.astype(int) - second).mean() < 2


def test_a_folder_of_frames_is_a_video_in_natural_order(tmp_path, moving_frames):
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
    assert (
        np.abs(
            resize_area(image, 40, 48).astype(int) - resize_area(moving_frames[0], 40, 48)
        ).mean()
        < 3
    )


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
def test_what_is_no_video_raises_one_sentence(tmp_path, content):
    path = tmp_path / "text.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"cannot open the video .*text\.mp4: \w") as caught:
        open_video(path)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_not_found(tmp_path):
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
    assert np.abs(difference).max() <= 1  # a mean halfway between two levels


def test_a_part_of_an_image_can_be_shrunk(moving_frames):
    part = moving_frames[0][10:90, 20:150]
    np.testing.assert_array_equal(resize_area(part, 30, 40), resize_area(part.copy(), 30, 40))


def test_a_video_of_odd_size_can_be_written(tmp_path, moving_frames):
    assert write_video(tmp_path / "odd.mp4", moving_frames[:3, :77, :101], fps=10) == 3
    info = open_video(tmp_path / "odd.mp4").info
    assert (info.height, info.width, info.frames) == (76, 100, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["odd.mp4"]


def test_the_reason_of_a_failure_says_nothing_of_videos_read_before(data_dir, tmp_path):
    """PyAV appends the last line of FFmpeg's log, whichever file that was about."""
    (tmp_path / "text.mp4").write_text("this is no video\n" * 20)
    for path in (data_dir / "odd_videos" / "derived_bitflips.mp4", tmp_path / "text.mp4"):
        with pytest.raises(VideoError) as caught:
            list(open_video(path, "pyav").frames())
    assert caught.value.reason == "Invalid data found when processing input"
