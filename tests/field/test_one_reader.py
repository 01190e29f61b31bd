"""One reader decides for all commands: track, shown frames, times, orientation, and which frames of
a damaged file are kept."""

from __future__ import annotations

import io
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from reference_player import shown_frames

from corrfractal.common.errors import VideoError
from corrfractal.shards.manifest import Sidecar, read_sealed, sidecar_name
from corrfractal.video import open_video, write_video
from corrfractal.video.container import read_container
from corrfractal.video.orientation import Orientation
from inference.load import open_model, resolve_model
from inference.prompts.shapes import read_prompts
from inference.propagate import propagate_video
from pipeline.config import PipelineConfig
from pipeline.discover.sources import find_sources
from pipeline.discover.work_plan import make_plan
from pipeline.report.header_info import probe
from pipeline.store.shard_task import make_shard

# Counts of `ffprobe -count_frames`; docs/reference/frames.md has all files.
SHOWN = {
    "field/edit-list/clip.mp4": 26,
    "field/two-tracks/two_tracks.mp4": 60,
    "field/late-start/late_start.mkv": 60,
    "field/mirrored/hflip.mp4": 60,
    "odd_videos/exo_sef_super_slow_motion.mp4": 435,
    "odd_videos/exo_dolbyvision_10bit.MOV": 4,
    "odd_videos/exo_vp9_10bit.webm": 72,
    "odd_videos/derived_vfr.mp4": 90,
    "odd_videos/moviepy_no_duration.webm": 74,
    "videos/exo_mpeg2video.ts": 3,
    "videos/opencv_tree.avi": 68,
    "videos/media3_h265_bframes.mp4": 30,
    "train_videos/bus.webm": 80,
}
SAVED = {"cut.mp4": 193, "cut.webm": 92, "zero_tail.mp4": 24}


def sampled(path, out):
    """The manifest's entry of a source, built without Ray."""
    out.mkdir(exist_ok=True)
    config = PipelineConfig()
    (spec,) = make_plan(find_sources([str(path)], skip=str(out)), config, {}).shards
    make_shard(spec, str(out), config)
    (entry,) = read_sealed(str(out / sidecar_name(spec.name)), Sidecar).sources
    return entry


def propagated(path, out):
    """Number of masks written, and the error or None."""
    given = read_prompts(boxes=("1,20,60,80,120",))
    try:
        propagate_video(path, given, out, "baseline:copy")
        error = None
    except VideoError as exc:
        error = exc
    return len(list(out.glob("*.png"))), error


def served(path):
    """Rows that the model returns as a service."""
    with warnings.catch_warnings():
        # MLflow warns about its own type hints.
        warnings.simplefilter("ignore")
        from inference.serving import MaskPropagation

    info = open_video(path).info
    mask = np.zeros((info.height, info.width), np.uint8)
    mask[60:120, 20:80] = 1
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    service = MaskPropagation()
    service.model = open_model(resolve_model("baseline:copy"))
    row = pd.DataFrame({"video": [path.read_bytes()], "mask": [buffer.getvalue()]})
    return service.predict(None, row)


@pytest.mark.parametrize("name", SHOWN)
def test_frames_times_and_pictures_are_those_of_a_player(data_dir, name):
    path = data_dir / name
    frames = list(open_video(path).frames())
    expected = shown_frames(path)
    orientation = read_container(path).orientation
    assert len(frames) == len(expected) == SHOWN[name]
    for ours, theirs in zip(frames, expected, strict=True):
        assert ours.seconds == pytest.approx(theirs.seconds - expected[0].seconds, abs=1e-3)
        np.testing.assert_array_equal(ours.image, orientation.apply(theirs.image))


@pytest.mark.parametrize("name", SHOWN)
def test_a_plan_counts_the_frames_that_are_shown(data_dir, name):
    facts = probe(str(data_dir / name))
    # VP9 may store hidden frames in separate packets: this file has eight of them.
    hidden = 8 if name.endswith("vp9_10bit.webm") else 0
    assert round(facts.seconds * facts.fps) == SHOWN[name] + hidden


@pytest.mark.parametrize("name", ["hflip", "vflip", "transpose"])
def test_a_mirrored_video_is_shown_mirrored(data_dir, name):
    folder = data_dir / "field" / "mirrored"
    first = next(iter(open_video(folder / f"{name}.mp4").frames())).image
    reference = cv2.imread(str(folder / f"{name}.ref.png"), cv2.IMREAD_COLOR_RGB)
    assert first.shape == reference.shape
    assert np.abs(first.astype(int) - reference).mean() < 1


@pytest.mark.parametrize("name", ["bear.mp4", "boat.mp4", "drift-turn.mkv", "bus.webm"])
def test_ordinary_files_are_read_by_decord_with_the_pixels_of_pyav(data_dir, name):
    path = data_dir / "train_videos" / name
    fast = open_video(path)
    assert fast.info.decoder == "decord"
    pyav = open_video(path, "pyav")
    for first, second in zip(fast.frames(), pyav.frames(), strict=True):
        np.testing.assert_array_equal(first.image, second.image)


@pytest.mark.parametrize("name", SAVED)
def test_every_command_keeps_the_same_frames_of_a_damaged_file(data_dir, tmp_path, name):
    path = data_dir / "field" / "cut-short" / name
    entry = sampled(path, tmp_path / "shards")
    masks, error = propagated(path, tmp_path / "masks")
    rows = served(path)
    kept = SAVED[name]
    assert (entry.outcome, entry.frames, entry.first_bad_frame) == ("quarantined", kept, kept)
    assert masks == kept
    assert error is not None
    assert error.frame == kept
    assert len(rows) == kept + 1
    assert [mask == b"" for mask in rows["mask"]] == [False] * kept + [True]


def test_a_clock_that_does_not_start_at_zero_is_not_damage(data_dir, tmp_path):
    entry = sampled(data_dir / "field" / "late-start" / "late_start.mkv", tmp_path)
    assert (entry.outcome, entry.frames) == ("sampled", 60)
    assert open_video(data_dir / "field" / "late-start" / "late_start.mkv").times()[0] == 0


def test_every_command_reads_the_default_track(data_dir, tmp_path):
    path = data_dir / "field" / "two-tracks" / "two_tracks.mp4"
    assert sampled(path, tmp_path / "shards").frames == 60
    assert propagated(path, tmp_path / "masks") == (60, None)


def test_trimmed_frames_are_absent_from_all_results(data_dir, tmp_path):
    path = data_dir / "field" / "edit-list" / "clip.mp4"
    assert sampled(path, tmp_path / "shards").frames == 26
    assert propagated(path, tmp_path / "masks") == (26, None)
    assert len(served(path)) == 26


@pytest.mark.parametrize("name", ["12:30.mp4", "file:x.mp4", "concat:tiny.mp4", "%03d.mp4"])
def test_a_name_is_never_read_as_a_protocol_or_a_pattern(tiny_video, tmp_path, monkeypatch, name):
    shutil.copy(tiny_video, tmp_path / "tiny.mp4")
    shutil.copy(tiny_video, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(open_video(name).frames())) == 24


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
    ],
)
def test_a_playlist_named_like_a_video_opens_no_other_file(tiny_video, tmp_path, text):
    shutil.copy(tiny_video, tmp_path / "private.mp4")
    (tmp_path / "clip.mp4").write_text(text.format("private.mp4"))
    with pytest.raises(VideoError, match=r"clip\.mp4"):
        open_video(tmp_path / "clip.mp4")


def test_sound_without_pictures_is_not_a_video(tmp_path, moving_frames):
    import av

    song = tmp_path / "song.mka"
    with av.open(str(song), "w", format="matroska") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        silence.sample_rate = 8000
        out.mux(stream.encode(silence))
    with pytest.raises(VideoError, match="no video stream"):
        open_video(song)


def test_a_frame_with_a_long_duration_is_not_a_cut_file(tmp_path, moving_frames):
    path = tmp_path / "still.mp4"
    write_video(path, moving_frames[:1], fps=0.1)
    assert read_container(path).cut_short is None
    assert len(list(open_video(path).frames())) == 1


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("flip_rows", [False, True])
@pytest.mark.parametrize("flip_columns", [False, True])
def test_an_orientation_is_mirrored_if_no_quarter_turns_produce_it(
    transposed, flip_rows, flip_columns
):
    orientation = Orientation(transposed=transposed, flip_rows=flip_rows, flip_columns=flip_columns)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    turns = [np.rot90(image, k) for k in range(4)]
    shown = orientation.apply(image)
    assert orientation.mirrored == (not any(np.array_equal(shown, turn) for turn in turns))


def test_concurrent_threads_read_the_same_as_one_thread(data_dir):
    """FFmpeg's log level is shared by all threads, and damage and matrices are found in its log."""
    mirrored = data_dir / "field" / "mirrored" / "hflip.mp4"
    cut = data_dir / "field" / "cut-short" / "cut.webm"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_container, [mirrored, cut] * 60))
    assert all(container.orientation.flip_columns for container in found[::2])
    assert {container.decord_fault for container in found[1::2]} == {"its container is damaged"}
