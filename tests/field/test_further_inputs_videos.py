"""Unusual videos from issues of other projects: ``open_video`` yields what a player shows, or says
why not.

Every frame shows its number (``build_inputs.picture``). Expected results are those of ``ffprobe
-count_frames`` and ``ffmpeg``.
"""

from __future__ import annotations

import io
import shutil
import struct

import av
import numpy as np
import pytest
from PIL import Image

from corrfractal.common.errors import VideoError
from corrfractal.video import open_video
from tests.field.build_inputs import (
    B_FRAMES,
    FAST,
    copy_of,
    encode,
    from_second_key_frame,
    matrix,
    numbers,
    patch,
    picture,
    read_until_error,
    retimed,
    write,
    write_two_sizes,
)

DECODERS = ["auto", "pyav"]
REALTIME = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}


def assert_even(times: np.ndarray, fps: float) -> None:
    """Assert one frame every 1 / fps seconds, from 0 on."""
    # Matroska rounds to milliseconds.
    np.testing.assert_allclose(times, np.arange(len(times)) / fps, atol=1.1e-3)


def test_a_transport_stream_with_the_name_of_an_mp4_shows_all_its_frames(tmp_path):
    """From HLS downloads. decord started at the second key frame and repeated the last frame."""
    write(tmp_path / "a.ts", 48, options=B_FRAMES).rename(tmp_path / "a.mp4")
    video = open_video(tmp_path / "a.mp4")
    assert numbers(video.frames()) == list(range(48))
    assert_even(video.times(), 24)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx264", {**FAST, "g": "12"}),
        ("a.mp4", "libx264", {**FAST, "g": "12"}),
        ("a.ts", "libx264", {**FAST, "g": "12"}),
        ("a.webm", "libvpx-vp9", {**REALTIME, "g": "12"}),
        ("a.avi", "mpeg4", {"g": "12"}),
    ],
)
def test_a_stream_that_begins_within_a_group_of_pictures_is_shown_from_its_first_key_frame_on(
    tmp_path, name, codec, options
):
    """Cut by stream copy. decord counted packets as frames and repeated the last one (compare
    decord issues 91 and 269)."""
    write(tmp_path / name, 48, codec, options=options, edit=lambda packets: packets[5:])
    for decoder in DECODERS:
        video = open_video(tmp_path / name, decoder)
        assert numbers(video.frames()) == list(range(12, 48))
        assert_even(video.times(), 24)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        (
            "a.mkv",
            "libx264",
            {"x264-params": "open-gop=1:scenecut=0:keyint=12:bframes=2:b-adapt=0"},
        ),
        (
            "a.mp4",
            "libx264",
            {"x264-params": "open-gop=1:scenecut=0:keyint=12:bframes=2:b-adapt=0"},
        ),
        (
            "b.mp4",
            "libx265",
            {
                "preset": "ultrafast",
                "x265-params": "log-level=none:open-gop=1:keyint=12:min-keyint=12:scenecut=0:"
                "bframes=3:b-adapt=0",
            },
        ),
        ("b.mkv", "mpeg2video", {"bf": "2", "g": "12"}),
    ],
)
def test_leading_pictures_whose_references_were_cut_off_are_not_shown(
    tmp_path, name, codec, options
):
    """An open group of pictures at the start (d2vsource issues 2 and 36). decord repeated the last
    frames instead; messages about the leading pictures looked like damage of the first frame."""
    write(tmp_path / name, 48, codec, options=options, edit=from_second_key_frame)
    for decoder in DECODERS:
        video = open_video(tmp_path / name, decoder)
        assert numbers(video.frames()) == list(range(12, 48))
        assert_even(video.times(), 24)


@pytest.mark.parametrize("unmarked", [0, 24])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx264", {**FAST, "g": "12"}),
        ("a.mp4", "libx264", {**FAST, "g": "12"}),
        ("a.webm", "libvpx-vp9", {**REALTIME, "g": "12"}),
    ],
)
def test_a_key_frame_that_the_container_does_not_mark_shifts_no_other_frame(
    tmp_path, name, codec, options, unmarked
):
    """decord recognised the key frame and seeked to it, but FFmpeg went to the previous one (decord
    issue 91, pull request 77)."""

    def unmark(packets):
        packets[unmarked].is_keyframe = False
        return packets

    write(tmp_path / name, 48, codec, options=options, edit=unmark)
    for decoder in DECODERS:
        assert numbers(open_video(tmp_path / name, decoder).frames()) == list(range(48))
        assert numbers(open_video(tmp_path / name, decoder).frames([30, 31, 40])) == [30, 31, 40]


@pytest.mark.parametrize("count", [1, 24])
def test_a_last_frame_with_a_long_duration_is_not_truncation(tmp_path, count):
    """Screen recorders write a frame only when something changes."""

    def last_for_ten_seconds(packets):
        packets[-1].duration = 240
        return packets

    write(tmp_path / "a.mp4", count, edit=last_for_ten_seconds)
    for decoder in DECODERS:
        assert numbers(open_video(tmp_path / "a.mp4", decoder).frames()) == list(range(count))


def test_a_gif_keeps_its_uneven_delays_and_its_long_last_frame(tmp_path):
    pictures = [Image.fromarray(picture(k)).quantize(64) for k in range(6)]
    delays = [20, 100, 40, 500, 40, 3000]
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=delays, disposal=2
    )
    video = open_video(tmp_path / "a.gif")
    assert numbers(video.frames()) == list(range(6))
    np.testing.assert_allclose(video.times(), np.cumsum([0, *delays[:-1]]) / 1000, atol=1e-6)


def test_an_animated_png_is_a_video(tmp_path):
    pictures = [Image.fromarray(picture(k)) for k in range(4)]
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:], duration=40)
    video = open_video(tmp_path / "a.png")
    assert numbers(video.frames()) == list(range(4))
    assert_even(video.times(), 25)


def test_an_animated_avif_is_read_as_its_sequence_and_not_as_its_still(tmp_path):
    pictures = [Image.fromarray(picture(k)) for k in range(6)]
    pictures[0].save(
        tmp_path / "a.avif", save_all=True, append_images=pictures[1:], duration=40, speed=10
    )
    for decoder in DECODERS:
        video = open_video(tmp_path / "a.avif", decoder)
        assert numbers(video.frames()) == list(range(6))
        assert_even(video.times(), 25)


@pytest.mark.parametrize("rate", [24, 60])
def test_a_raw_stream_has_the_frame_rate_of_its_own_headers(tmp_path, rate):
    """None of its packets has a time (PyAV pull request 144)."""
    write(tmp_path / "a.h264", 60, rate=rate, options=B_FRAMES)
    video = open_video(tmp_path / "a.h264")
    assert numbers(video.frames()) == list(range(60))
    assert_even(video.times(), rate)


def test_frames_of_an_avi_with_b_frames_are_evenly_spaced(tmp_path):
    """AVI stores decoding times only (PyAV issue 534)."""
    write(tmp_path / "a.avi", 48, rate=60, options=B_FRAMES)
    video = open_video(tmp_path / "a.avi")
    assert numbers(video.frames()) == list(range(48))
    assert_even(video.times(), 60)


def test_dropped_frames_of_an_avi_leave_a_gap_in_time(tmp_path):
    """Capture cards write an empty packet where a frame was dropped."""

    def dropped(packets):
        return [
            copy_of(packet, b"") if k in (5, 6, 13) else packet for k, packet in enumerate(packets)
        ]

    write(tmp_path / "a.avi", 24, "mjpeg", pix_fmt="yuvj420p", edit=dropped)
    video = open_video(tmp_path / "a.avi")
    left = [k for k in range(24) if k not in (5, 6, 13)]
    assert numbers(video.frames()) == left
    np.testing.assert_allclose(video.times(), np.array(left) / 24, atol=1e-3)


def test_frames_with_equal_times_are_spread_without_lengthening_the_video(tmp_path):
    write(tmp_path / "a.mkv", 24, edit=retimed(lambda k: k // 2 * 2))
    video = open_video(tmp_path / "a.mkv")
    assert numbers(video.frames()) == list(range(24))
    assert (np.diff(video.times()) > 0).all()
    assert video.times()[-1] == pytest.approx(23 / 24, abs=2.1 / 24)


@pytest.mark.parametrize("lengths", [(24, 12), (12, 48)])
def test_times_after_a_restarted_clock_keep_their_spacing(tmp_path, lengths):
    """Recordings joined with ``cat``: the times of the second part begin at 0 again."""
    parts = []
    for start, length in zip((0, 100), lengths, strict=True):
        images = [picture(start + k) for k in range(length)]
        parts.append(write(tmp_path / f"{start}.ts", images).read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    video = open_video(tmp_path / "a.ts")
    assert numbers(video.frames()) == [*range(lengths[0]), *range(100, 100 + lengths[1])]
    assert_even(video.times(), 24)


def test_a_gap_of_hours_stays_a_gap(tmp_path):
    write(tmp_path / "a.mp4", 24, edit=retimed(lambda k: k if k < 12 else k + 24 * 3600 * 3))
    for decoder in DECODERS:
        video = open_video(tmp_path / "a.mp4", decoder)
        assert numbers(video.frames()) == list(range(24))
        assert np.diff(video.times())[11] == pytest.approx(10800, abs=0.1)


def test_a_cut_recording_without_declared_length_raises_after_its_last_frame(tmp_path):
    """Live WebM and Matroska declare no duration (compare torchvision issue 1271)."""
    path = write(tmp_path / "a.mkv", 48, options={**FAST, "g": "12"}, container={"live": "1"})
    assert numbers(open_video(path).frames()) == list(range(48))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    seen, error = read_until_error(open_video(path))
    assert numbers(seen) == list(range(len(seen)))
    assert len(seen) > 12
    assert error is not None
    assert error.frame == len(seen)


def test_a_fragmented_mp4_cut_within_a_fragment_yields_the_frames_before_it(tmp_path):
    """Browsers record in this format; a lost connection cuts the file anywhere."""
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = write(tmp_path / "a.mp4", 48, options=B_FRAMES, container=flags)
    assert numbers(open_video(path).frames()) == list(range(48))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    counts = []
    for decoder in DECODERS:
        seen, error = read_until_error(open_video(path, decoder))
        assert error is not None
        assert numbers(seen) == list(range(len(seen)))
        counts.append(len(seen))
    assert counts[0] == counts[1] > 12


@pytest.mark.parametrize(
    "name", ["12:30:05.mp4", "concat:other.mp4", "file:other.mp4", "-i.mp4", "%03d.mp4", "a[1].mp4"]
)
def test_a_file_name_is_never_read_as_an_address_or_a_pattern(tmp_path, monkeypatch, name):
    """FFmpeg reads the text before a colon as a protocol (youtube-dl issue 6286): for
    ``concat:other.mp4`` the frames of ``other.mp4`` were returned."""
    write(tmp_path / "mine.mp4", [picture(k) for k in range(7, 10)])
    write(tmp_path / "other.mp4", [picture(k) for k in range(100, 110)])
    (tmp_path / "mine.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for decoder in DECODERS:
        assert numbers(open_video(name, decoder).frames()) == [7, 8, 9]


def test_a_playlist_does_not_choose_what_is_read(tmp_path):
    """Otherwise the author of a data set could make the reader open any file of the machine."""
    write(tmp_path / "private.ts", 24)
    playlist = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{tmp_path}/private.ts\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "a.mp4").write_text(playlist)
    with pytest.raises(VideoError, match=r"a\.mp4"):
        open_video(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("a.mp4", "libx264", FAST), ("a.ts", "libx264", FAST), ("a.webm", "libvpx-vp9", REALTIME)],
)
def test_all_frames_have_the_size_of_the_first_if_the_coded_size_changes(
    tmp_path, name, codec, options
):
    """From turned phones and WebRTC (OGVKit issue 132, Ladybird issue 6357)."""
    first = [picture(k) for k in range(12)]
    second = [picture(k, 240, 200) for k in range(12, 24)]
    write_two_sizes(tmp_path / name, codec, first, second, options)
    for decoder in DECODERS:
        frames = list(open_video(tmp_path / name, decoder).frames())
        assert {frame.image.shape for frame in frames} == {(160, 192, 3)}
        assert numbers(frames) == list(range(24))


def test_music_with_a_cover_picture_is_not_a_video(tmp_path):
    cover = io.BytesIO()
    Image.fromarray(picture(7)).save(cover, "JPEG")
    with av.open(str(tmp_path / "song.mp3"), "w") as out:
        sound = out.add_stream("libmp3lame", rate=44100)
        art = out.add_stream("mjpeg")
        art.height, art.width = 160, 192
        art.pix_fmt = "yuvj420p"
        art.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 44100), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        frame.pts = 0
        packets = sound.encode(frame) + sound.encode(None)
        out.start_encoding()
        image = av.Packet(cover.getvalue())
        image.stream = art
        image.pts = 0
        image.dts = 0
        out.mux([image, *packets])
    for decoder in DECODERS:
        with pytest.raises(VideoError, match="no video stream"):
            open_video(tmp_path / "song.mp3", decoder)


@pytest.mark.parametrize(
    ("values", "why"),
    [((0,) * 9, "all zero"), ((2 << 16, 0, 0, 0, 2 << 16, 0, 0, 0, 1 << 30), "twice the size")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_display_matrix_without_rotation_leaves_the_picture_as_it_is(tmp_path, values, why):
    """PyAV reported a quarter turn for a matrix of zeros."""
    path = patch(write(tmp_path / "a.mp4", 6), b"tkhd", 4 + 20 + 16, matrix(*values))
    for decoder in DECODERS:
        frames = list(open_video(path, decoder).frames())
        assert numbers(frames) == list(range(6))
        assert frames[0].image.shape == (160, 192, 3)


def test_an_mp4_with_zero_sample_durations_is_read_at_its_mean_rate(tmp_path):
    """From a broken muxer: every frame is at 0 s, while the track lasts one second."""
    path = write(tmp_path / "a.mp4", 24)
    patch(path, b"stts", 12, struct.pack(">I", 0))
    video = open_video(path)
    assert numbers(video.frames()) == list(range(24))
    gaps = np.diff(video.times())
    assert (gaps > 0).all()
    assert np.allclose(gaps, gaps[0])


@pytest.mark.parametrize("duration", [0, 0xFFFFFFFF], ids=["zero", "unknown"])
def test_an_mp4_without_durations_in_its_headers_shows_all_frames(tmp_path, duration):
    path = write(tmp_path / "a.mp4", 24)
    for box, offset in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
        patch(path, box, offset, struct.pack(">I", duration))
    for decoder in DECODERS:
        assert numbers(open_video(path, decoder).frames()) == list(range(24))


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bt709", [False, True])
def test_both_decoders_return_the_colours_that_were_drawn(tmp_path, full_range, bt709):
    """A wrong colour range or matrix shifts all colours (PyAV issue 1430, OpenCV issue 20513)."""
    matrix_number = 1 if bt709 else 5
    range_number = 2 if full_range else 1

    def tag(encoder):
        encoder.colorspace = matrix_number
        encoder.color_range = range_number

    colours = {"dst_colorspace": matrix_number, "dst_color_range": range_number}
    write(tmp_path / "a.mp4", 3, options={**FAST, "crf": "1"}, setup=tag, colours=colours)
    for decoder in DECODERS:
        for frame in open_video(tmp_path / "a.mp4", decoder).frames():
            assert np.abs(frame.image.astype(int) - picture(frame.index)).mean() < 3


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv422p"),
        ("a.mp4", "libx264", "yuv444p10le"),
        ("a.mp4", "libx264", "gray10le"),
        ("a.mp4", "libx264rgb", "rgb24"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mov", "png", "rgb48be"),
        ("a.mov", "png", "rgba"),
        ("a.mov", "qtrle", "rgb24"),
        ("a.avi", "utvideo", "gbrp"),
        ("a.avi", "rawvideo", "bgr24"),
        ("a.mkv", "ffv1", "yuv420p12le"),
    ],
)
def test_both_decoders_convert_unusual_pixel_formats_to_8_bit_rgb(tmp_path, name, codec, pix_fmt):
    options = {"crf": "1", "preset": "ultrafast"} if codec.startswith("libx264") else {}
    write(tmp_path / name, 3, codec, pix_fmt=pix_fmt, options=options)
    auto, pyav = (list(open_video(tmp_path / name, decoder).frames()) for decoder in DECODERS)
    assert numbers(auto) == numbers(pyav) == [0, 1, 2]
    for first, second in zip(auto, pyav, strict=True):
        assert np.abs(first.image.astype(int) - second.image).mean() < 1
        if not pix_fmt.startswith("gray"):
            assert np.abs(first.image.astype(int) - picture(first.index)).mean() < 6


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 2048), (161, 173), (170, 198)])
def test_frames_of_any_size_are_returned_unscaled(tmp_path, height, width):
    images = [picture(k, height, width) for k in range(3)]
    write(tmp_path / "a.avi", images, "rawvideo", pix_fmt="bgr24")
    frames = list(open_video(tmp_path / "a.avi").frames())
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_array_equal(frame.image, image)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_hidden_reference_frames_are_not_shown(tmp_path, codec):
    options = {
        "auto-alt-ref": "1",
        "lag-in-frames": "16",
        "deadline": "good",
        "cpu-used": "5",
        "b": "200k",
    }
    write(tmp_path / "a.webm", 24, codec, options=options)
    for decoder in DECODERS:
        video = open_video(tmp_path / "a.webm", decoder)
        assert numbers(video.frames()) == list(range(24))
        assert_even(video.times(), 24)


def test_jpeg_frames_without_huffman_tables_are_decoded_with_the_standard_ones(tmp_path):
    """From the motion JPEG of old webcams."""

    def without_tables(packets):
        return [copy_of(packet, strip_tables(bytes(packet))) for packet in packets]

    options = {"huffman": "default"}
    write(tmp_path / "a.avi", 6, "mjpeg", pix_fmt="yuvj420p", options=options, edit=without_tables)
    for decoder in DECODERS:
        assert numbers(open_video(tmp_path / "a.avi", decoder).frames()) == list(range(6))


def strip_tables(jpeg: bytes) -> bytes:
    """A JPEG without its Huffman tables (marker FFC4); the scan (FFDA) is copied unchanged."""
    kept = jpeg[:2]
    position = 2
    while jpeg[position + 1] != 0xDA:
        (length,) = struct.unpack(">H", jpeg[position + 2 : position + 4])
        if jpeg[position + 1] != 0xC4:
            kept += jpeg[position : position + 2 + length]
        position += 2 + length
    return kept + jpeg[position:]


def test_of_two_programmes_in_a_transport_stream_one_is_shown(tmp_path):
    with av.open(str(tmp_path / "a.ts"), "w") as out:
        packets = []
        streams = [out.add_stream("libx264", rate=24, options=dict(FAST)) for _ in range(2)]
        for stream, start in zip(streams, (0, 100), strict=True):
            stream.height, stream.width = 160, 192
            stream.pix_fmt = "yuv420p"
            packets += encode(stream, [picture(start + k) for k in range(12)], 24)
        out.start_encoding()
        out.mux(sorted(packets, key=lambda packet: packet.dts))
    assert numbers(open_video(tmp_path / "a.ts").frames()) == list(range(12))


def test_bytes_after_the_end_of_an_mp4_are_ignored(tmp_path):
    path = write(tmp_path / "a.mp4", 12)
    path.write_bytes(path.read_bytes() + bytes(5000))
    for decoder in DECODERS:
        assert numbers(open_video(path, decoder).frames()) == list(range(12))


def test_an_mp4_without_its_tables_is_refused_in_one_sentence(tmp_path):
    """From power cuts while recording: the tables are written last."""
    data = write(tmp_path / "a.mp4", 12).read_bytes()
    for length in (data.index(b"moov") - 4, len(data) - 300):
        (tmp_path / "cut.mp4").write_bytes(data[:length])
        with pytest.raises(VideoError, match=r"cannot open the video .*cut\.mp4: \w") as caught:
            open_video(tmp_path / "cut.mp4")
        assert "\n" not in str(caught.value)


def test_the_name_of_a_video_does_not_matter(tmp_path):
    write(tmp_path / "a.mkv", 12)
    for name in ("a.mp4", "a.avi", "a.jpg", "a"):
        shutil.copy(tmp_path / "a.mkv", tmp_path / name)
        assert numbers(open_video(tmp_path / name).frames()) == list(range(12))
