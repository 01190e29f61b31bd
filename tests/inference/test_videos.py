"""Many videos: found, matched with their masks, spread over workers, failures named without
stopping the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from corrfractal.common.errors import CallError, CorrFractalError, NotFoundError
from corrfractal.video.discovery import Entry
from inference.outputs import Outputs
from inference.propagate_many import propagate_videos
from inference.videos import is_many, list_videos, names_of, prompts_of, unused_masks


@pytest.fixture
def videos(tiny_video: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("one.mp4", "two.mp4"):
        shutil.copy(tiny_video, folder / name)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("one.mp4\n# a comment\ntwo.mp4\n")
    return folder


@pytest.fixture
def masks(first_mask: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    (folder / "two").mkdir(parents=True)
    shutil.copy(first_mask, folder / "one.png")
    shutil.copy(first_mask, folder / "broken.png")
    shutil.copy(first_mask, folder / "two" / "00003.png")
    return folder


def test_a_broken_video_is_named_the_others_are_done_and_a_rerun_keeps_them(
    ray_session: None, videos: Path, masks: Path, tmp_path: Path
) -> None:
    out, outputs = tmp_path / "out", Outputs(overlay=tmp_path / "films")
    with pytest.raises(
        CorrFractalError,
        match=r"1 of 3 videos failed \(broken: cannot open the video .*broken\.mp4",
    ):
        propagate_videos(videos, masks, out, "baseline:copy", outputs=outputs, workers=2)
    assert len(list((out / "one").glob("*.png"))) == len(list((out / "two").glob("*.png"))) == 24
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == ["one.mp4", "two.mp4"]
    done = propagate_videos(videos / "notes.txt", masks, out, "baseline:copy")
    assert [Path(result.video).name for result in done] == ["one.mp4", "two.mp4"]


def test_folders_and_lists_of_videos_are_told_from_videos(
    videos: Path, tiny_video: Path, first_mask: Path
) -> None:
    assert is_many(videos)
    assert is_many(videos / "notes.txt")
    assert not is_many(tiny_video)
    assert not is_many(first_mask.parent)  # a folder of frames
    assert [entry.uri for entry in list_videos(videos)] == ["broken.mp4", "one.mp4", "two.mp4"]


def test_names_are_as_short_as_they_can_be_told_apart() -> None:
    assert names_of(entries("a/x.mp4", "a/x.webm", "y.mp4")) == ["x.mp4", "x.webm", "y"]
    assert names_of(entries("a/x.mp4", "b/x.mp4", "y.mp4")) == ["a/x.mp4", "b/x.mp4", "y"]
    with pytest.raises(CallError, match=r"two of the videos are called x\.mp4"):
        names_of(entries("/one/x.mp4", "/two/x.mp4"))


def test_missing_videos_and_masks_are_named(videos: Path, masks: Path, tmp_path: Path) -> None:
    (videos / "notes.txt").write_text("three.mp4\n")
    (missing,) = list_videos(videos / "notes.txt")
    assert (missing.uri, missing.fault) == (
        "three.mp4",
        "notes.txt, line 1: no such file or folder",
    )
    with pytest.raises(
        NotFoundError, match=r"no mask for the video three: neither .*three\.png nor"
    ):
        prompts_of("three", masks)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="holds no videos"):
        list_videos(tmp_path / "empty")


def test_masks_without_a_video_are_found(masks: Path) -> None:
    assert [path.name for path in unused_masks(["one", "two"], masks)] == ["broken.png"]
    assert [path.name for path in unused_masks(["one", "broken"], masks)] == ["two"]


def entries(*uris: str) -> list[Entry]:
    return [Entry(uri=uri, location=uri) for uri in uris]
