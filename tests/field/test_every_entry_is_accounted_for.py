"""Every entry behind the names given by the user is sampled, quarantined, rejected, or ignored by a
documented rule.

An entry that cannot be read does not stop the others.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from corrfractal.common.config import read_toml
from corrfractal.common.errors import CallError, CorrFractalError, NotFoundError
from corrfractal.files import storage
from corrfractal.labels.quantization import QuantizationConfig
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import QUARANTINE
from corrfractal.video.discovery import discover
from corrfractal.video.entry_rules import OTHER_IMAGES, is_frame_folder
from corrfractal.video.images import IMAGE_SUFFIXES
from inference.benchmarks.davis import Davis
from inference.datasets.davis_files import sequence_names
from inference.datasets.folders import files_in
from inference.prompts.mask_images import write_mask
from inference.propagate_many import propagate_videos
from inference.propagation.videos import is_many
from pipeline.cli import precompute as precompute_command
from pipeline.config import PipelineConfig
from pipeline.discover.sources import find_sources
from pipeline.report.estimate import estimate_build
from tests.local_build import build_shards

CONFIG = PipelineConfig(size=32, quantization=QuantizationConfig(fit_pixels=512, iterations=5))


@pytest.fixture(scope="session")
def master_frames(moving_frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for t in range(24):
        cv2.imwrite(str(folder / f"{t:05d}.png"), moving_frames[t])
    return folder


@pytest.fixture
def frames(master_frames: Path, tmp_path: Path) -> Path:
    """A frame folder of 24 frames, the only entry of its parent."""
    return Path(shutil.copytree(master_frames, tmp_path / "data" / "frames"))


@pytest.fixture
def folder(tiny_video: Path, tmp_path: Path) -> Path:
    """A folder with one intact video, a.mp4."""
    (tmp_path / "v").mkdir()
    shutil.copy(tiny_video, tmp_path / "v" / "a.mp4")
    return tmp_path / "v"


def found(*names: object) -> dict[str, str]:
    """The fault of each entry, by URI."""
    return {entry.uri: entry.fault for entry in discover([str(name) for name in names]).entries}


def ignored(*names: object) -> dict[str, int]:
    return discover([str(name) for name in names]).ignored


def build(out: Path, *names: object) -> dict[str, tuple[str, str]]:
    """Build a data set in this process; outcome and reason of every source."""
    manifest = build_shards([str(name) for name in names], out, CONFIG)
    return {source.uri: (source.outcome, source.reason) for source in Index(out, manifest).sources}


@pytest.mark.parametrize(
    ("name", "contents", "rule"),
    [
        ("Thumbs.db", b"\xd0\xcf\x11\xe0\0\0", "side file"),
        (".DS_Store", b"\0\0\0\1Bud1", "hidden"),
        ("desktop.ini", b"\xff\xfe[\0", "side file"),
        ("LICENSE", b"MIT License\n", "text file"),
        ("README", "Grüße\n".encode(), "text file"),
        ("SHA256SUMS", b"00ff  00000.png\n" * 1000, "text file"),
        ("checksums.md5", b"00ff  00000.png\n", "side file"),
        ("frames.lst", b"00000.png\n", "side file"),
        ("_SUCCESS", b"", "side file"),
        ("._clip.mp4", b"\0\5\x16\7", "hidden"),
        ("clip.mp4.part", b"\0\0\0\x20ftyp", "unfinished download"),
        ("IMG_1.HEIC", b"\0\0\0\x20ftypheic", "image of another kind beside frames"),
    ],
)
def test_an_entry_next_to_frames_that_is_no_video_is_ignored_by_a_rule(
    frames, name, contents, rule
):
    (frames / name).write_bytes(contents)
    assert found(frames.parent) == {"frames": ""}
    assert ignored(frames.parent) == {rule: 1}
    assert is_frame_folder(frames)
    assert not is_many(frames)


def test_folders_of_operating_systems_are_ignored(frames):
    for name in ("@eaDir", "__MACOSX", ".git"):
        (frames / name).mkdir()
        shutil.copy(frames / "00000.png", frames / name)
    assert found(frames.parent) == {"frames": ""}
    assert ignored(frames.parent) == {"hidden": 1, "folder of an operating system": 2}


def test_an_unknown_file_next_to_frames_is_tried_and_hides_no_frame(frames, tmp_path):
    (frames / "clip.xyz").write_bytes(b"\0\1\2\3" * 100)
    outcomes = build(tmp_path / "out", frames.parent)
    assert {uri: outcome for uri, (outcome, _) in outcomes.items()} == {
        "frames": "sampled",
        "frames/clip.xyz": "quarantined",
    }


def test_images_next_to_videos_are_counted_as_posters(folder, master_frames):
    for name in ("poster.png", "poster.heic", "note.txt"):
        shutil.copy(master_frames / "00000.png", folder / name)
    assert found(folder) == {"a.mp4": ""}
    assert ignored(folder) == {"image beside videos": 2, "side file": 1}
    assert is_many(folder)


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".JPG"])
def test_a_folder_of_readable_images_is_a_video(tmp_path, suffix):
    (tmp_path / "data" / "frames").mkdir(parents=True)
    (tmp_path / "data" / "frames" / f"0{suffix}").write_bytes(b"x")
    assert found(tmp_path / "data") == {"frames": ""}


@pytest.mark.parametrize("suffix", [*OTHER_IMAGES, ".EXR"])
def test_a_folder_of_unreadable_image_formats_has_a_fault(tmp_path, suffix):
    (tmp_path / "data" / "frames").mkdir(parents=True)
    for t in range(2):
        (tmp_path / "data" / "frames" / f"{t}{suffix}").write_bytes(b"x")
    (fault,) = found(tmp_path / "data").values()
    assert f"its 2 images are of a kind that is not read as frames ({suffix.lower()})" in fault


def test_a_glob_that_matches_frames_suggests_their_folder(frames):
    with pytest.raises(NotFoundError, match=r"matches 24 images and no video; name their folder"):
        found(f"{frames}/*.png")


def test_broken_links_are_quarantined_with_their_target_and_the_others_are_sampled(
    folder, tmp_path
):
    (folder / "annexed.mp4").symlink_to("../.git/annex/missing.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    outcomes = build(tmp_path / "out", folder)
    assert {uri: outcome for uri, (outcome, _) in outcomes.items()} == {
        "a.mp4": "sampled",
        "annexed.mp4": "quarantined",
        "loop.mp4": "quarantined",
    }
    assert outcomes["annexed.mp4"][1] == "a link to ../.git/annex/missing.mp4, which does not exist"
    lines = [json.loads(line) for line in (tmp_path / "out" / QUARANTINE).read_text().splitlines()]
    assert [(line["uri"], line["stage"]) for line in lines] == [
        ("annexed.mp4", "read"),
        ("loop.mp4", "read"),
    ]


def test_two_links_to_the_same_missing_file_are_two_entries(folder):
    for name in ("x.mp4", "y.mp4"):
        (folder / name).symlink_to("gone.mp4")
    assert list(found(folder)) == ["a.mp4", "x.mp4", "y.mp4"]


def test_a_frame_that_is_a_broken_link_is_named(frames):
    (frames / "00003.png").unlink()
    (frames / "00003.png").symlink_to("gone.png")
    (source,) = find_sources([str(frames.parent)])
    assert source.fault == "its file 00003.png cannot be read: No such file or directory"


def test_pipes_and_sockets_do_not_block_and_are_named(folder, frames):
    os.mkfifo(folder / "pipe.mp4")
    (frames / "00003.png").unlink()
    os.mkfifo(frames / "00003.png")
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as short:
        server.bind(f"{short}/s.mp4")
        (folder / "socket.mp4").symlink_to(f"{short}/s.mp4")
        faults = found(folder)
    assert faults == {
        "a.mp4": "",
        "pipe.mp4": "a named pipe, not a file",
        "socket.mp4": "a socket, not a file",
    }
    (source,) = find_sources([str(frames)])
    assert source.fault == "its file 00003.png cannot be read: not a regular file"
    with pytest.raises(CallError, match="named pipe"):
        found(folder / "pipe.mp4")


@pytest.fixture
def readable_only_by_root(tiny_video: Path) -> Iterator[Path]:
    """A folder with an intact video, and a file and a sub-folder without read permission."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    (root / "locked").mkdir()
    for name in ("a.mp4", "secret.mp4", "locked/b.mp4"):
        shutil.copy(tiny_video, root / name)
    (root / "a.mp4").chmod(0o644)
    (root / "secret.mp4").chmod(0)
    (root / "locked").chmod(0)

    # Permissions do not apply to root, so the test runs as "nobody".
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield root
    if user == 0:
        os.seteuid(0)
    (root / "locked").chmod(0o755)
    shutil.rmtree(root)


def test_entries_without_read_permission_do_not_stop_the_others(readable_only_by_root):
    faults = {source.uri: source.fault for source in find_sources([str(readable_only_by_root)])}
    assert faults == {
        "a.mp4": "",
        "locked": "the folder cannot be read: Permission denied",
        "secret.mp4": "the file cannot be read: Permission denied",
    }
    with pytest.raises(CallError, match=r"cannot read .*locked: Permission denied"):
        found(readable_only_by_root / "locked")


def test_each_empty_file_is_quarantined(folder, tmp_path):
    for name in ("x.mp4", "y.mp4"):
        (folder / name).touch()
    empty = ("quarantined", "the file is empty")
    assert build(tmp_path / "out", folder) == {
        "a.mp4": ("sampled", None),
        "x.mp4": empty,
        "y.mp4": empty,
    }


ODD_NAMES = (
    "new\nline.mp4", "quote\"'.mp4", "-dash.mp4", " lead.mp4", "trail.mp4 ", "e\u0301.mp4",
    "\u00e9.mp4", "clip[1].mp4", "star*.mp4", "what?.mp4", "A.mp4", "a,b.mp4", "#hash.mp4",
    "back\\slash.mp4", "sep\u2028.mp4", "~.mp4",
)  # fmt: skip


def test_files_with_odd_names_are_found_in_folders_by_name_and_in_lists(tmp_path, tiny_video):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ODD_NAMES:
        (folder / name).write_bytes(tiny_video.read_bytes())
    latin1 = os.fsdecode(b"caf\xe9.mp4")
    (folder / latin1).write_bytes(tiny_video.read_bytes())
    names = {*ODD_NAMES, latin1}
    assert set(found(folder)) == names
    for name in names:
        assert found(folder / name) == {name: ""}
    # A line of a list cannot contain a line break.
    listed = names - {"new\nline.mp4"}
    (tmp_path / "list.txt").write_bytes(
        b"".join(os.fsencode(f"odd/{name}\r\n") for name in sorted(listed))
    )
    assert found(tmp_path / "list.txt") == {f"odd/{name}": "" for name in listed}
    sources = find_sources([str(folder)])
    json.dumps([source.uri for source in sources]).encode()
    assert [source.fault for source in sources] == [""] * len(names)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_are_read_as_editors_save_them(folder, encoding):
    (folder / "é b.mp4").write_bytes((folder / "a.mp4").read_bytes() + b"1")
    (folder / "sub").mkdir()
    (folder / "sub" / "c.mp4").write_bytes((folder / "a.mp4").read_bytes() + b"2")
    text = '# videos\r\n\r\na.mp4  \r\n"é b.mp4"\r\nsub\\c.mp4\r\na.mp4\r\n'
    (folder / "list.txt").write_bytes(text.encode(encoding))
    (folder / "list.csv").write_bytes(
        'id,path\r\n1,a.mp4\r\n2,"é b.mp4"\r\n3,sub/c.mp4\r\n'.encode(encoding)
    )
    for name in ("list.txt", "list.csv"):
        assert found(folder / name) == {"a.mp4": "", "é b.mp4": "", "sub/c.mp4": ""}


def test_lines_of_a_list_that_name_no_video_are_quarantined_with_their_numbers(folder, tmp_path):
    (folder / "empty").mkdir()
    (folder / "list.txt").write_text("gone.mp4\na.mp4\nlist.txt\n*.mov\nempty\nx\ty.mp4\n")
    outcomes = build(tmp_path / "out", folder / "list.txt")
    assert outcomes == {
        "*.mov": ("quarantined", "list.txt, line 4: nothing matches"),
        "a.mp4": ("sampled", None),
        "empty": ("quarantined", "list.txt, line 5: the folder holds no videos and no frames"),
        "gone.mp4": ("quarantined", "list.txt, line 1: no such file or folder"),
        "list.txt": ("quarantined", "list.txt, line 3: a list within a list is not read"),
        "x\ty.mp4": ("quarantined", "list.txt, line 6: no such file or folder"),
    }


def test_globs_and_home_folders_in_lists_are_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    (folder / "list.txt").write_text("*.mp4\n~/v/b.mp4\n")
    shutil.copy(folder / "a.mp4", folder / "b.mp4")
    assert found(folder / "list.txt") == {"a.mp4": "", "b.mp4": ""}


def test_a_list_without_videos_is_a_wrong_call(folder):
    (folder / "list.txt").write_text("# nothing yet\n\n")
    with pytest.raises(NotFoundError, match="names no videos"):
        found(folder / "list.txt")


def test_a_folder_named_twice_is_searched_once(folder):
    assert found(folder, folder, folder / "a.mp4") == {"a.mp4": ""}


def test_the_same_file_under_several_names_is_one_source_or_rejected_as_a_copy(folder, tmp_path):
    (folder / "link.mp4").symlink_to("a.mp4")
    os.link(folder / "a.mp4", folder / "hard.mp4")
    outcomes = build(tmp_path / "out", folder)
    assert outcomes == {
        "a.mp4": ("sampled", None),
        "hard.mp4": ("rejected", "the same bytes as a.mp4"),
    }


def test_hidden_entries_are_ignored_in_a_folder_and_read_when_named(folder):
    (folder / ".cache").mkdir()
    for name in (".hidden.mp4", ".cache/b.mp4"):
        shutil.copy(folder / "a.mp4", folder / name)
    assert found(folder) == {"a.mp4": ""}
    assert ignored(folder) == {"hidden": 2}
    assert found(folder / ".hidden.mp4", folder / ".cache") == {".hidden.mp4": "", "b.mp4": ""}


def test_searching_very_deep_trees_and_circular_links_terminates(folder):
    deep = folder.joinpath(*["d"] * 1010)
    subprocess.run(["mkdir", "-p", deep], check=True)
    shutil.copy(folder / "a.mp4", deep / "b.mp4")
    # Two links to the parent give 2 ** 40 paths before the system refuses.
    for name in ("one", "two"):
        (folder / name).symlink_to(folder)
    assert len(found(folder)) == len(found(f"{folder}/**/*.mp4")) == 2
    # Python cannot remove a tree of this depth.
    subprocess.run(["rm", "-r", folder / "d"], check=True)


def test_keys_of_a_store_with_special_characters_are_found(tmp_path, s3, tiny_video):
    bucket = f"{s3}/{tmp_path.name}"
    names = [
        "a+b.mp4",
        "a%20b.mp4",
        "a#b.mp4",
        "a b.mp4",
        "é.mp4",
        "clip[1].mp4",
        "a::b.mp4",
        "star*.mp4",
    ]
    names += [f"{tmp_path.name}.mp4", "both.mp4", "both.mp4/inner.mp4"]
    for number, name in enumerate(names):
        storage.write(f"{bucket}/{name}", tiny_video.read_bytes() + bytes([number]))
    # Web consoles of stores create a key for each folder; a file may share its folder's name.
    with storage._remote(bucket) as (fs, path):
        fs.call_s3("put_object", Bucket="bucket", Key=path.removeprefix("bucket/") + "/")
    storage.write(f"{bucket}/sub/sub", tiny_video.read_bytes() + b"sub")
    storage.write(f"{bucket}/frames/f[1].png", b"no image")
    storage.write(f"{bucket}/frames/LICENSE", b"text")
    sources = {source.uri: source.fault for source in find_sources([bucket])}
    assert sources == {**dict.fromkeys([*names, "sub/sub", "frames"], "")}
    for name in names:
        assert found(f"{bucket}/{name}") == {Path(name).name: ""}


def test_an_estimate_counts_what_cannot_be_read_as_lost(folder):
    (folder / "annexed.mp4").symlink_to("gone.mp4")
    estimate = estimate_build([str(folder)], CONFIG)
    assert (estimate.sources, estimate.lost) == (2, 0.5)


def test_precompute_prints_what_it_ignored(folder, tmp_path, ray_session):
    (folder / "notes.txt").write_text("a note")
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbf[precompute]\nsize = 32\n")
    assert read_toml(tmp_path / "config.toml") == {"precompute": {"size": 32}}
    call = [str(folder), "--out", str(tmp_path / "out"), "--config", str(tmp_path / "config.toml")]
    result = CliRunner().invoke(precompute_command, call)
    assert result.exit_code == 0, result.output
    assert "ignored 1 entry that is no video (side file: 1)" in result.output


def test_each_of_many_videos_that_fails_is_named_and_the_others_get_their_masks(
    ray_session, folder, tmp_path, moving_frames, capsys
):
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros(moving_frames.shape[1:3], dtype=np.uint8)
    mask[20:60, 20:60] = 1
    for name in ("a.png", "tpyo.png"):
        write_mask(masks / name, mask)
    (folder / "sub").mkdir()
    shutil.copy(folder / "a.mp4", folder / "sub" / "typo.mp4")
    (folder / "annexed.mp4").symlink_to("gone.mp4")
    (folder / "list.txt").write_bytes(b"\xef\xbb\xbfa.mp4\r\nmissing.mp4\r\n")
    with pytest.raises(CorrFractalError, match="2 of 3 videos failed") as failed:
        propagate_videos(folder, masks, tmp_path / "out", "baseline:copy")
    assert "annexed: a link to gone.mp4, which does not exist" in str(failed.value)
    assert "no mask for the video typo" in str(failed.value)
    assert "tpyo.png: no video of this name" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "a").glob("*.png"))) == 24
    with pytest.raises(
        CorrFractalError, match=r"1 of 2 videos failed \(missing: list\.txt, line 2: no such file"
    ):
        propagate_videos(folder / "list.txt", masks, tmp_path / "out", "baseline:copy")


@pytest.fixture
def davis(tmp_path: Path, moving_frames: np.ndarray) -> Path:
    """A data set in the layout of DAVIS with two sequences, "one" and "two", of four frames."""
    root = tmp_path / "davis"
    mask = np.zeros(moving_frames.shape[1:3], dtype=np.uint8)
    mask[20:60, 20:60] = 1
    for name in ("one", "two"):
        for part in ("JPEGImages", "Annotations"):
            (root / part / "480p" / name).mkdir(parents=True)
        for t in range(4):
            cv2.imwrite(str(root / "JPEGImages" / "480p" / name / f"{t:05d}.jpg"), moving_frames[t])
            write_mask(root / "Annotations" / "480p" / name / f"{t:05d}.png", mask)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    return root


def test_lists_of_data_sets_are_read_as_editors_save_them(davis):
    for text in ("one\r\ntwo  \r\n\r\none\r\n".encode("utf-8-sig"), "one\ntwo\n".encode("utf-16")):
        (davis / "ImageSets" / "2017" / "val.txt").write_bytes(text)
        assert sequence_names(davis) == ("one", "two")
    frames = davis / "JPEGImages" / "480p" / "one"
    (frames / "._00000.jpg").write_bytes(b"\0\5\x16\7")
    assert len(files_in(frames, ".jpg")) == 4


def test_score_names_every_failed_sequence_and_every_unknown_entry(davis, tmp_path, capsys):
    (davis / "ImageSets" / "2017" / "val.txt").write_text("one\ntwo\n")
    masks = Path(shutil.copytree(davis / "Annotations" / "480p", tmp_path / "masks"))
    (masks / "one" / "00001.png").unlink()
    (masks / "two").rename(masks / "tow")
    with pytest.raises(CallError, match="2 of 2 sequences cannot be scored") as failed:
        Davis(davis).score(masks)
    assert "one: " in str(failed.value)
    assert "two: " in str(failed.value)
    assert (
        "1 entries are not in the data set and are not scored, such as tow"
        in capsys.readouterr().out
    )
    (masks / "tow").rename(masks / "two")
    shutil.copy(masks / "two" / "00002.png", masks / "one" / "00001.png")
    shutil.copy(masks / "two" / "00002.png", masks / "one" / "00004.png")
    assert Davis(davis).score(masks).JF == 1
    assert "such as 00004.png" in capsys.readouterr().out
