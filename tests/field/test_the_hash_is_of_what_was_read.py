"""A recorded SHA-256 is that of the bytes that were actually decoded, loaded or read."""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.common.errors import IntegrityError, VideoError
from corrfractal.files.atomic import file_sha256
from corrfractal.labels.quantization import QuantizationConfig
from corrfractal.shards.manifest import Sidecar, SourceEntry, read_sealed, sidecar_name
from corrfractal.video import open_video, write_video
from corrfractal.video.content import content_sha256, read_content
from inference.config import InferenceConfig
from inference.load import open_model, resolve_model
from inference.prompts.mask_images import write_mask
from inference.prompts.shapes import Prompts
from inference.propagation import video_job
from inference.propagation.outputs import Outputs
from inference.propagation.video_job import PropagationJob
from pipeline.config import PipelineConfig
from pipeline.discover.source_table import Source
from pipeline.discover.sources import find_sources
from pipeline.discover.work_plan import make_plan
from pipeline.store import sample_segment as shards
from pipeline.store.sample_segment import MOVED
from pipeline.store.shard_task import make_shard
from training.data.cache import ShardFiles
from training.data.samples import Shard

CONFIG = PipelineConfig(size=32, quantization=QuantizationConfig(fit_pixels=512, iterations=5))


@pytest.fixture
def video(tiny_video: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_video, tmp_path / "clip.mp4"))


@pytest.fixture
def other(moving_frames: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "other" / "clip.mp4"
    path.parent.mkdir()
    write_video(path, moving_frames[::-1], fps=24)
    return path


@pytest.fixture
def frames(moving_frames: np.ndarray, tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for t in range(24):
        cv2.imwrite(str(folder / f"{t:05d}.png"), moving_frames[t])
    return folder


def build(sources: list[Source], out: Path) -> SourceEntry:
    """Build the only shard of one source; return the source's outcome."""
    (spec,) = make_plan(sources, CONFIG, {}).shards
    out.mkdir()
    make_shard(spec, str(out), CONFIG)
    sidecar = read_sealed(out / sidecar_name(spec.name), Sidecar)
    (entry,) = sidecar.sources
    # Nothing of a changed file is stored.
    assert bool(sidecar.samples) == (entry.outcome == "sampled")
    return entry


def test_a_file_replaced_between_listing_and_reading_is_stored_under_its_new_hash(
    video, other, tmp_path
):
    sources = find_sources([str(video)])
    other.replace(video)
    entry = build(sources, tmp_path / "out")
    assert (entry.outcome, entry.sha256) == ("sampled", content_sha256(video))


def test_a_file_overwritten_in_place_with_its_times_restored_has_another_stamp(video):
    settle(video)
    (before,) = find_sources([str(video)])
    facts = video.stat()
    contents = bytearray(video.read_bytes())
    contents[-1] ^= 1
    video.write_bytes(contents)
    os.utime(video, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (video.stat().st_size, video.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    settle(video)
    (after,) = find_sources([str(video)])
    assert before.stamp
    assert before.stamp != after.stamp


def test_a_file_that_was_removed_is_quarantined(video, tmp_path):
    sources = find_sources([str(video)])
    video.unlink()
    assert build(sources, tmp_path / "out").reason == MOVED


@pytest.mark.parametrize("how", ["rename", "append", "overwrite", "remove"])
def test_a_file_that_changes_while_it_is_decoded_is_read_again_under_its_new_hash(
    video, other, tmp_path, monkeypatch, how
):
    sources = find_sources([str(video)])

    def change() -> None:
        if how == "rename":
            other.replace(video)
        elif how == "append":
            with video.open("ab") as file:
                file.write(b"more")
        elif how == "overwrite":
            video.write_bytes(other.read_bytes())
        else:
            video.unlink()

    monkeypatch.setattr(shards, "open_video", interleaved(change))
    entry = build(sources, tmp_path / "out")
    if how == "remove":
        assert (entry.outcome, entry.stage, entry.reason) == ("quarantined", "read", MOVED)
        assert entry.clips == 0
    else:
        assert (entry.outcome, entry.sha256) == ("sampled", content_sha256(video))


def test_a_file_that_changes_during_every_read_is_quarantined(video, tmp_path, monkeypatch):
    sources = find_sources([str(video)])
    monkeypatch.setattr(shards, "open_video", interleaved(lambda: os.utime(video), always=True))
    assert "it changed while it was read" in build(sources, tmp_path / "out").reason


def test_a_hard_link_that_a_backup_adds_costs_another_read_and_no_clip(
    video, tmp_path, monkeypatch
):
    sources = find_sources([str(video)])
    expected = build(sources, tmp_path / "first")
    monkeypatch.setattr(
        shards, "open_video", interleaved(lambda: os.link(video, tmp_path / "backup.mp4"))
    )
    assert build(sources, tmp_path / "second") == expected
    (first,) = (tmp_path / "first").glob("*.tar")
    (second,) = (tmp_path / "second").glob("*.tar")
    assert file_sha256(first) == file_sha256(second)


def test_a_frame_replaced_between_listing_and_reading_is_in_the_hash(frames, tmp_path):
    sources = find_sources([str(frames)])
    shutil.copy(frames / "00000.png", frames / "00011.png")
    assert build(sources, tmp_path / "out").sha256 == content_sha256(frames)


def test_a_frame_added_while_the_folder_is_decoded_is_in_the_hash(frames, tmp_path, monkeypatch):
    sources = find_sources([str(frames)])
    add = interleaved(lambda: shutil.copy(frames / "00000.png", frames / "00024.png"))
    monkeypatch.setattr(shards, "open_video", add)
    entry = build(sources, tmp_path / "out")
    assert (entry.frames, entry.sha256) == (25, content_sha256(frames))


def test_an_object_replaced_in_a_store_is_stored_under_its_new_hash(video, other, tmp_path, s3):
    from corrfractal.files import storage

    location = f"{s3}/{tmp_path.name}/clip.mp4"
    storage.write(location, video.read_bytes())
    sources = find_sources([location])
    storage.write(location, other.read_bytes())
    assert build(sources, tmp_path / "out").sha256 == content_sha256(other)


def test_a_file_that_grows_while_it_is_hashed_gets_no_hash(tmp_path):
    path = tmp_path / "growing.mp4"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.wait(0.0005):
                file.write(b"more")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        with pytest.raises(VideoError, match="changed while it was read"):
            read_content(path)
        entry = build(find_sources([str(path)]), tmp_path / "out")
        assert not entry.sha256
        assert "changed while it was read" in entry.reason
    finally:
        stop.set()
        thread.join()


def test_the_stamp_of_a_listing_decides_no_digest(video):
    settle(video)
    (source,) = find_sources([str(video)])
    plans = [make_plan([replace(source, stamp=stamp)], CONFIG, {}) for stamp in ("a", "b")]
    assert plans[0].shards[0].digest == plans[1].shards[0].digest


def test_hashes_of_files_and_frame_folders_are_as_documented(video, frames):
    assert content_sha256(video) == file_sha256(video)
    lines = "".join(f"{path.name} {file_sha256(path)}\n" for path in sorted(frames.iterdir()))
    (frames / "list.sha256").write_text(lines)
    assert content_sha256(frames) == file_sha256(frames / "list.sha256")


@pytest.mark.parametrize("when", ["before the first frame", "after the first frame"])
def test_masks_of_a_video_that_changes_during_propagation_are_deleted(
    video, other, tmp_path, monkeypatch, when
):
    mask = np.zeros((160, 192), dtype=np.uint8)
    mask[20:60, 20:60] = 1
    write_mask(tmp_path / "mask.png", mask)
    source = resolve_model("baseline:copy")
    job = PropagationJob(
        video=video,
        prompts=Prompts(masks={0: tmp_path / "mask.png"}),
        out=tmp_path / "out",
        outputs=Outputs(),
    )
    if when == "after the first frame":
        monkeypatch.setattr(video_job, "open_video", interleaved(lambda: other.replace(video)))
    opened = job.check()
    if when == "before the first frame":
        other.replace(video)
    with pytest.raises(VideoError, match="changed while it was read"):
        job.run(opened, source, open_model(source), InferenceConfig())
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_model_replaced_after_it_was_found_is_not_used(tmp_path):
    small = CorrFractalConfig(width=8, embedding_channels=16)
    path = tmp_path / "model.safetensors"
    CorrFractal(small).save(path)
    found = resolve_model(str(path))
    open_model(found)
    CorrFractal(small).save(path)
    with pytest.raises(IntegrityError, match="changed after it was found"):
        open_model(found)


def test_a_shard_replaced_while_training_reads_it_is_detected(tmp_path):
    path = tmp_path / "shard-0123456789abcdef.tar"
    path.write_bytes(b"first" * 100)
    shard = Shard(0, path.name, file_sha256(path), 500)
    files = ShardFiles(tmp_path, 1)
    assert files.read(shard, 0, 5) == b"first"
    path.write_bytes(b"other" * 100)
    with pytest.raises(IntegrityError, match="its SHA-256 is not the manifest's"):
        files.read(shard, 0, 5)


def settle(path: Path) -> None:
    """Wait until the last change of a file is long enough ago for its state to be trusted."""
    while time.time() - path.stat().st_ctime < 2.1:
        time.sleep(0.1)


def interleaved(change, always=False):
    """``open_video`` that calls ``change`` after the first frame, or after every frame."""
    done = False

    def opened(path, *args, **kwargs):
        video = open_video(path, *args, **kwargs)
        frames_of = video.frames

        def frames(indices=None):
            nonlocal done
            for frame in frames_of(indices):
                yield frame
                if not done or always:
                    done = True
                    change()

        video.frames = frames
        return video

    return opened
