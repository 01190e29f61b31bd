"""A folder of shards as a stream of webdataset: the clips that random access gives, from a local
folder and from a store, in one process and in the workers of a loader."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import corrfractal
from corrfractal.common.errors import CallError, IntegrityError, NotFoundError
from corrfractal.files import storage
from corrfractal.shards import open_webdataset
from corrfractal.shards.clip import decode_clip, read_members
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest
from corrfractal.video import write_video
from pipeline.config import PipelineConfig
from tests.local_build import build_shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory, swaying_frames):
    """12 clips of two views, in several shards."""
    root = tmp_path_factory.mktemp("streaming")
    (root / "videos").mkdir()
    for number in range(6):
        write_video(root / "videos" / f"{number}.mp4", swaying_frames(60 + number), fps=24)
    config = PipelineConfig(size=32, videos_per_shard=1, views=2)
    build_shards([root / "videos"], root / "shards", config)
    assert len(list((root / "shards").glob("*.tar"))) > 2
    return root / "shards"


@pytest.fixture(scope="module")
def bucket(folder, s3):
    """The same in a store."""
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder)
            storage.write(f"{s3}/streaming/shards/{name}", path.read_bytes())
    return f"{s3}/streaming/shards"


def by_index(folder):
    """All clips in stored order, by random access."""
    for ref in Index(folder, load_manifest(folder)).sample_refs():
        block = storage.read_part(storage.join(folder, ref.shard), ref.offset, ref.length)
        yield decode_clip(read_members(block))


def assert_same_clips(samples, clips):
    samples = {sample["key"]: sample for sample in samples}
    clips = {clip.key: clip for clip in clips}
    assert samples.keys() == clips.keys()
    for key, sample in samples.items():
        assert sample.keys() == {"key", "frames", "labels", "meta", "__key__"}
        assert sample["frames"].dtype == sample["labels"].dtype == np.uint8
        assert np.array_equal(sample["frames"], clips[key].frames)
        assert np.array_equal(sample["labels"], clips[key].labels)
        assert sample["meta"] == clips[key].meta


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_stream_gives_the_clips_of_random_access_in_stored_order(place, folder, request):
    samples = list(open_webdataset(request.getfixturevalue(place)))
    clips = list(by_index(folder))
    assert len(clips) == 12
    assert [sample["key"] for sample in samples] == [clip.key for clip in clips]
    assert samples[0]["labels"].shape == (2, 8, 32, 32)
    assert_same_clips(samples, clips)


@pytest.mark.parametrize("place", ["folder", "bucket"])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_two_workers_of_a_loader_give_every_clip_once(place, start, folder, request):
    from torch.utils.data import DataLoader

    data = open_webdataset(request.getfixturevalue(place), shuffle=8, seed=1)
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=start)
    samples = list(loader)
    assert len(samples) == 12
    for sample in samples:
        # The loader has made them tensors.
        sample["frames"] = sample["frames"].numpy()
        sample["labels"] = sample["labels"].numpy()
    assert_same_clips(samples, by_index(folder))


def test_the_seed_decides_the_order_and_each_pass_has_its_own(folder):
    def orders(seed):
        data = open_webdataset(folder, shuffle=100, seed=seed)
        return [[sample["key"] for sample in data] for _ in range(2)]

    stored = [sample["key"] for sample in open_webdataset(folder)]
    first, second = orders(1)
    assert sorted(first) == sorted(second) == sorted(stored)
    assert first != second
    assert stored not in (first, second)
    assert orders(1) == [first, second]
    assert orders(2)[0] != first


def test_views_and_frames_choose_what_is_decoded(folder):
    complete = next(iter(open_webdataset(folder)))
    chosen = next(iter(open_webdataset(folder, views=(1,), frames=(0, 3))))
    assert np.array_equal(chosen["frames"], complete["frames"][[0, 3]])
    assert np.array_equal(chosen["labels"], complete["labels"][[1]][:, [0, 3]])


def test_the_methods_of_webdataset_apply(folder):
    data = open_webdataset(folder, views=(0,)).to_tuple("frames", "labels").batched(5)
    shapes = [(frames.shape, labels.shape) for frames, labels in data]
    assert shapes[0] == ((5, 8, 32, 32, 3), (5, 1, 8, 32, 32))
    assert [frames[0] for frames, _ in shapes] == [5, 5, 2]


def test_nodes_are_split_by_the_argument_of_webdataset_and_refused_without(folder, monkeypatch):
    import webdataset

    keys = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        data = open_webdataset(folder, nodesplitter=webdataset.split_by_node)
        keys.append([sample["key"] for sample in data])
    assert all(keys)
    assert sorted(keys[0] + keys[1]) == sorted(clip.key for clip in by_index(folder))
    with pytest.raises(ValueError, match="nodesplitter"):
        list(open_webdataset(folder))


def test_a_list_that_names_a_command_or_another_folder_is_refused(folder, tmp_path):
    for name in ("manifest.json", "urls.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    for line in ("pipe:touch executed", "../shard-0123456789abcdef.tar"):
        (tmp_path / "urls.txt").write_text(f"{line}\n")
        with pytest.raises(IntegrityError, match=r"urls\.txt is missing or damaged"):
            open_webdataset(tmp_path)
    with pytest.raises(NotFoundError, match="no finished shards"):
        open_webdataset(tmp_path / "missing")
    with pytest.raises(CallError, match="leave the password out"):
        open_webdataset("s3://name:secret@bucket/shards")


def test_pickled_members_are_never_loaded(folder, tmp_path):
    """A foreign member of a clip would run code in webdataset's own ``decode``."""
    import io
    import tarfile

    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    first = tmp_path / (folder / "urls.txt").read_text().split()[0]
    with tarfile.open(first) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    key = members[0][0].partition(".")[0]
    code = b"cbuiltins\nexec\n(S'raise SystemExit(3)'\ntR."
    with tarfile.open(first, "w") as tar:
        for name, contents in [(f"{key}.a.pyd", code), *members]:
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            tar.addfile(info, io.BytesIO(contents))
    assert_same_clips(open_webdataset(tmp_path), by_index(folder))


def test_a_damaged_clip_is_named_with_its_shard_and_a_handler_can_skip_it(folder, tmp_path):
    import webdataset

    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    ref = next(Index(folder, load_manifest(folder)).sample_refs())
    shard = tmp_path / ref.shard
    contents = bytearray(shard.read_bytes())
    # The first member is the first frame.
    contents[ref.offset + 512 : ref.offset + 1024] = bytes(512)
    shard.write_bytes(contents)
    with pytest.raises(IntegrityError, match=rf"{ref.shard}, clip .*f000\.jpg is not a readable"):
        list(open_webdataset(tmp_path))
    kept = list(open_webdataset(tmp_path, handler=webdataset.ignore_and_continue))
    assert len(kept) == 11


def test_values_out_of_range_and_webdatasets_cache_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="views"):
        open_webdataset(folder, views=())
    with pytest.raises(ValueError, match="shuffle"):
        open_webdataset(folder, shuffle=-1)
    with pytest.raises(CallError, match="shell"):
        open_webdataset(folder, cache_dir=str(tmp_path))


def test_importing_the_package_imports_neither_torch_nor_ray_nor_webdataset():
    code = (
        "import sys, corrfractal.shards; "
        "print([name for name in ('torch', 'ray', 'webdataset') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_example_on_the_page_of_the_format_prints_every_clip(folder, capsys):
    (page,) = (Path(__file__).parents[3] / "docs").rglob("format.md")
    (example,) = re.findall(
        r"^( {4}from corrfractal.*?\n)\n(?! )", page.read_text("utf-8"), re.M | re.S
    )
    code = textwrap.dedent(example)
    assert '"s3://bucket/shards"' in code
    exec(code.replace('"s3://bucket/shards"', repr(str(folder))), {})
    printed = capsys.readouterr().out.splitlines()
    keys = sorted(clip.key for clip in by_index(folder))
    assert sorted(printed) == [f"{key} (8, 32, 32, 3) (1, 8, 32, 32)" for key in keys]


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_the_clips_of_a_folder_are_a_sequence(place, folder, request):
    clips = corrfractal.shards.open(request.getfixturevalue(place))
    expected = list(by_index(folder))
    assert len(clips) == len(expected) == 12
    assert [clip.key for clip in clips] == [clip.key for clip in expected]
    assert clips[-1].key == expected[-1].key
    assert [clip.key for clip in clips[2:4]] == [clip.key for clip in expected[2:4]]
    assert np.array_equal(clips[5].labels, expected[5].labels)
    with pytest.raises(IndexError, match="clip 12 of 12"):
        clips[12]
    assert {source.outcome for source in clips.sources()} == {"sampled"}
    assert clips.manifest.digest[:16] in repr(clips)


def test_a_sequence_of_clips_needs_finished_shards(tmp_path):
    with pytest.raises(NotFoundError, match="no finished shards"):
        corrfractal.shards.open(tmp_path)
