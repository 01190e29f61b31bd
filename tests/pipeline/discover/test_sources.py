from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import cv2
import pytest

from corrfractal.common.errors import CallError, NotFoundError
from corrfractal.files import storage
from corrfractal.video.content import content_sha256
from pipeline.discover.examine import read_equal, read_lengths
from pipeline.discover.sources import find_sources, source_id


def uris(tmp_path, *names):
    return [
        source.uri for source in find_sources([str(name) for name in names], skip=tmp_path / "out")
    ]


ALL = ["cut.mkv", "cut.mp4", "good.mp4", "short.mp4", "sub/long.mkv", "text.mp4"]


def test_a_folder_is_searched_with_its_subfolders_in_order(videos, tmp_path):
    assert uris(tmp_path, videos) == ALL


def test_uris_and_sizes_do_not_depend_on_where_the_folder_is(videos, tmp_path):
    moved = shutil.copytree(videos, tmp_path / "elsewhere" / "renamed")
    here = find_sources([str(videos)], skip=tmp_path / "out")
    there = find_sources([str(moved)], skip=tmp_path / "out")
    assert [(s.uri, s.bytes) for s in here] == [(s.uri, s.bytes) for s in there]


def test_a_listing_opens_no_video(videos, tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise AssertionError(f"{self} was opened")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert uris(tmp_path, videos) == ALL


def test_a_stamp_changes_with_every_write_and_is_empty_right_after_one(videos, tmp_path):
    (source,) = find_sources([str(videos / "good.mp4")], skip=tmp_path / "out")
    assert source.stamp == ""
    os.utime(videos / "good.mp4")
    time.sleep(2.1)
    (settled,) = find_sources([str(videos / "good.mp4")], skip=tmp_path / "out")
    assert settled.stamp
    os.utime(videos / "good.mp4")
    time.sleep(2.1)
    (touched,) = find_sources([str(videos / "good.mp4")], skip=tmp_path / "out")
    assert touched.stamp not in ("", settled.stamp)


def test_a_file_named_twice_is_one_source(videos, tmp_path):
    assert uris(tmp_path, videos / "good.mp4", videos, f"{videos}/*.mp4") == ALL


def test_globs_find_files_and_folders(videos, tmp_path):
    assert uris(tmp_path, f"{videos}/*.mp4") == ["cut.mp4", "good.mp4", "short.mp4", "text.mp4"]
    assert uris(tmp_path, f"{videos}/**/*.mkv") == ["cut.mkv", "sub/long.mkv"]
    assert uris(tmp_path, f"{videos}/*") == ALL


def test_lists_name_videos_relative_to_themselves(videos, tmp_path):
    (videos / "list.txt").write_text("# some\ngood.mp4\n\nsub\n")
    (videos / "list.csv").write_text("path,label\ngood.mp4,3\n")
    assert uris(tmp_path, videos / "list.txt") == ["good.mp4", "sub/long.mkv"]
    assert uris(tmp_path, videos / "list.csv") == ["good.mp4"]


def test_a_missing_entry_of_a_list_is_a_source_with_a_fault_that_names_the_line(videos, tmp_path):
    (videos / "list.txt").write_text("good.mp4\ngone.mp4\n")
    gone, good = find_sources([str(videos / "list.txt")], skip=tmp_path / "out")
    assert (good.uri, good.fault) == ("good.mp4", "")
    assert (gone.uri, gone.fault) == ("gone.mp4", "list.txt, line 2: no such file or folder")


def test_a_list_with_a_password_in_a_uri_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "list.txt").write_text("https://me:hunter2@host/v.mp4\n")
    with pytest.raises(CallError, match=r"https://me:\*\*\*@host/v\.mp4: leave the password out"):
        uris(tmp_path, tmp_path / "list.txt")


def test_a_folder_of_images_is_one_video_and_images_beside_videos_are_none(tmp_path, moving_frames):
    for folder in ("data/frames/a", "data/frames/b", "data/mixed"):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "0.png"), moving_frames[len(folder)])
    (tmp_path / "data/mixed/clip.mp4").write_bytes(b"x")
    assert uris(tmp_path, tmp_path / "data") == ["frames/a", "frames/b", "mixed/clip.mp4"]
    assert uris(tmp_path, tmp_path / "data/frames/a") == ["a"]


def test_two_sources_of_one_name_keep_their_whole_paths(videos, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(videos / "short.mp4", tmp_path / "other" / "good.mp4")
    found = uris(tmp_path, videos / "good.mp4", tmp_path / "other")
    assert found == sorted([f"{videos}/good.mp4", f"{tmp_path}/other/good.mp4"])


def test_a_video_with_a_strange_suffix_is_a_source_and_a_note_is_none(videos, tmp_path):
    (videos / "good.mp4").rename(videos / "good.xyz")
    (videos / "notes.json").write_text("{}")
    (videos / ".hidden.mp4").write_text("")
    assert uris(tmp_path, videos) == sorted([*ALL[:2], "good.xyz", *ALL[3:]])


def test_the_output_folder_is_no_source(videos, tmp_path):
    (videos / "out").mkdir()
    shutil.copy(videos / "good.mp4", videos / "out")
    assert [s.uri for s in find_sources([str(videos)], skip=videos / "out")] == ALL


def test_links_that_lead_back_up_end(videos, tmp_path):
    (videos / "sub" / "up").symlink_to(videos)
    assert uris(tmp_path, videos) == ALL


def test_ids_hold_nothing_that_webdataset_splits_at(tmp_path):
    (tmp_path / "a.b (1)é.tar.mp4").write_bytes(b"x")
    source = find_sources([str(tmp_path / "a.b (1)é.tar.mp4")], skip=tmp_path / "out")[0]
    assert source_id(source.uri, "ab" * 32) == "a-b-1-tar-abababababababab"
    assert source.uri == "a.b (1)é.tar.mp4"


def test_what_leads_to_nothing_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("gone.mp4", "empty", "*.mov"):
        with pytest.raises(NotFoundError, match=name.replace("*", r"\*")):
            uris(tmp_path, tmp_path / name)


def test_a_list_that_is_no_text_is_a_wrong_call(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CallError, match="cannot read the list"):
        uris(tmp_path, tmp_path / "list.txt")


@pytest.mark.parametrize("layout", ["davis", "youtube-vos", "oxuva"])
def test_in_the_layouts_of_the_field_frames_are_videos_and_masks_are_not(
    tmp_path, moving_frames, layout
):
    frames, masks = {
        "davis": ("JPEGImages/480p", "Annotations/480p"),
        "youtube-vos": ("train/JPEGImages", "train/Annotations"),
        "oxuva": ("images/dev", None),
    }[layout]
    for name in ("bear", "vid0001"):
        (tmp_path / "data" / frames / name).mkdir(parents=True)
        suffix = ".jpeg" if layout == "oxuva" else ".jpg"
        cv2.imwrite(
            str(tmp_path / "data" / frames / name / f"00000{suffix}"), moving_frames[len(name)]
        )
        if masks is not None:
            (tmp_path / "data" / masks / name).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / "data" / masks / name / "00000.png"), moving_frames[0])
    (tmp_path / "data" / "meta.json").write_text("{}")
    assert uris(tmp_path, tmp_path / "data") == [f"{frames}/bear", f"{frames}/vid0001"]


def test_sources_of_a_bucket_have_the_uris_and_sizes_of_the_same_folder(
    videos, tmp_path, moving_frames, s3
):
    (videos / "frames").mkdir()
    for t in range(3):
        cv2.imwrite(str(videos / "frames" / f"{t}.png"), moving_frames[t])
    (videos / "list.txt").write_text("good.mp4\nsub\n")
    bucket = upload(videos, f"{s3}/{tmp_path.name}")
    for here, there in [
        (f"{videos}", bucket),
        (f"{videos}/*.mp4", f"{bucket}/*.mp4"),
        (f"{videos}/list.txt", f"{bucket}/list.txt"),
        (f"{videos}/good.mp4", f"{bucket}/good.mp4"),
    ]:
        local = find_sources([here], skip=tmp_path / "out")
        remote = find_sources([there], skip=tmp_path / "out")
        assert [(s.uri, s.bytes, s.files) for s in local] == [
            (s.uri, s.bytes, s.files) for s in remote
        ]
        assert all(source.stamp for source in remote)
        assert {uri: known.seconds for uri, known in read_lengths(remote).items()} == {
            uri: known.seconds for uri, known in read_lengths(local).items()
        }
    (tmp_path / "uris.csv").write_text(f"uri\n{bucket}/good.mp4\n")
    assert uris(tmp_path, tmp_path / "uris.csv") == ["good.mp4"]


def test_a_missing_bucket_is_a_wrong_call(tmp_path, s3):
    with pytest.raises(NotFoundError, match="no such video, folder or list: s3://gone/x"):
        uris(tmp_path, "s3://gone/x")


def test_headers_tell_the_length_of_videos_and_nothing_of_others(videos, tmp_path):
    known = read_lengths(find_sources([str(videos)], skip=tmp_path / "out"))
    assert known["sub/long.mkv"].seconds == pytest.approx(2.5, abs=0.05)
    assert known["text.mp4"].seconds == 0


def test_only_files_that_are_equal_in_parts_are_hashed(videos, tmp_path):
    contents = bytearray((videos / "good.mp4").read_bytes())
    (videos / "twin.mp4").write_bytes(contents)
    contents[0] ^= 1
    (videos / "other.mp4").write_bytes(contents)
    names = [str(videos / name) for name in ("good.mp4", "twin.mp4", "other.mp4")]
    known = read_equal(find_sources(names, skip=tmp_path / "out"))
    expected = content_sha256(videos / "good.mp4")
    assert {uri: read.sha256 for uri, read in known.items()} == {
        "good.mp4": expected,
        "twin.mp4": expected,
    }


def upload(folder, uri):
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write(f"{uri}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return uri
