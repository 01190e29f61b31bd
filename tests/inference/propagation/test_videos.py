"""Many videos are found, named uniquely, and matched with their masks."""

from __future__ import annotations

from pathlib import Path

import pytest

from corrfractal.common.errors import CallError, NotFoundError
from corrfractal.video.discovery import Entry
from inference.propagation.videos import is_many, list_videos, names_of, prompts_of, unused_masks


def test_folders_and_lists_of_videos_are_distinguished_from_videos(
    video_folder: Path, tiny_video: Path, first_mask: Path
) -> None:
    assert is_many(video_folder)
    assert is_many(video_folder / "notes.txt")
    assert not is_many(tiny_video)
    assert not is_many(first_mask.parent)  # a folder of frames
    assert [entry.uri for entry in list_videos(video_folder)] == [
        "broken.mp4",
        "one.mp4",
        "two.mp4",
    ]


def test_names_are_as_short_as_uniqueness_allows() -> None:
    assert names_of(entries("a/x.mp4", "a/x.webm", "y.mp4")) == ["x.mp4", "x.webm", "y"]
    assert names_of(entries("a/x.mp4", "b/x.mp4", "y.mp4")) == ["a/x.mp4", "b/x.mp4", "y"]
    with pytest.raises(CallError, match=r"two of the videos are called x\.mp4"):
        names_of(entries("/one/x.mp4", "/two/x.mp4"))


def test_missing_videos_and_masks_are_named(
    video_folder: Path, mask_folder: Path, tmp_path: Path
) -> None:
    (video_folder / "notes.txt").write_text("three.mp4\n")
    (missing,) = list_videos(video_folder / "notes.txt")
    assert (missing.uri, missing.fault) == (
        "three.mp4",
        "notes.txt, line 1: no such file or folder",
    )
    with pytest.raises(
        NotFoundError, match=r"no mask for the video three: neither .*three\.png nor"
    ):
        prompts_of("three", mask_folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="holds no videos"):
        list_videos(tmp_path / "empty")


def test_masks_without_a_video_are_found(mask_folder: Path) -> None:
    assert [path.name for path in unused_masks(["one", "two"], mask_folder)] == ["broken.png"]
    assert [path.name for path in unused_masks(["one", "broken"], mask_folder)] == ["two"]


def entries(*uris: str) -> list[Entry]:
    return [Entry(uri=uri, location=uri) for uri in uris]
