from __future__ import annotations

import numpy as np
import pytest

from corrfractal.shards.clip import decode_clip, read_members
from corrfractal.shards.manifest import Sidecar, read_sealed, sidecar_name
from corrfractal.video import open_video, resize_area
from corrfractal.video.content import content_sha256
from pipeline.discover.sources import find_sources, source_id
from pipeline.discover.work_plan import make_plan
from pipeline.store.shard_task import make_shard, unchanged_shard


def made(out, config, *names):
    """(specification, sidecar) of one shard of the named files."""
    out.mkdir(exist_ok=True)
    (spec,) = make_plan(find_sources([str(name) for name in names], skip=out), config, {}).shards
    make_shard(spec, out, config)
    return spec, read_sealed(out / sidecar_name(spec.name), Sidecar)


def test_a_stored_clip_is_the_video_and_says_where_it_came_from(videos, tmp_path, config):
    spec, sidecar = made(tmp_path / "out", config, videos / "good.mp4")
    (sample,) = sidecar.samples
    block = (tmp_path / "out" / spec.name).read_bytes()[
        sample.offset : sample.offset + sample.length
    ]
    clip = decode_clip(read_members(block))
    assert clip.key == sample.key == f"{source_id('good.mp4', sidecar.sources[0].sha256)}_00000"
    assert (clip.frames.shape, clip.labels.shape) == ((8, 32, 32, 3), (1, 8, 32, 32))
    assert clip.meta["source"] == "good.mp4"
    assert clip.meta["source_sha256"] == content_sha256(videos / "good.mp4")
    for image, frame in zip(
        clip.frames, open_video(videos / "good.mp4").frames(clip.meta["frame_indices"]), strict=True
    ):
        assert np.abs(image.astype(int) - resize_area(frame.image, 32, 32)).mean() < 8


def test_every_source_has_one_outcome_with_its_reason(videos, tmp_path, config):
    outcomes = {}
    for name in ("good.mp4", "cut.mkv", "cut.mp4", "text.mp4", "short.mp4"):
        _, sidecar = made(tmp_path / name.replace(".", "-"), config, videos / name)
        (outcomes[name],) = sidecar.sources
    assert {name: entry.outcome for name, entry in outcomes.items()} == {
        "good.mp4": "sampled",
        "cut.mkv": "quarantined",
        "cut.mp4": "quarantined",
        "text.mp4": "quarantined",
        "short.mp4": "rejected",
    }
    assert (outcomes["cut.mkv"].frames_stored, outcomes["cut.mkv"].stage) == (8, "decode")
    assert (outcomes["text.mp4"].frames_stored, outcomes["text.mp4"].stage) == (0, "open")
    assert "too short: 5 frames" in outcomes["short.mp4"].reason
    assert outcomes["good.mp4"].reason is None


def test_a_video_that_decord_loses_midway_is_read_again_by_pyav(data_dir, tmp_path, config):
    _, sidecar = made(tmp_path / "out", config, data_dir / "odd_videos" / "decord_corrupted.mp4")
    (entry,) = sidecar.sources
    assert (entry.decoder, entry.first_bad_frame, entry.frames_stored) == ("pyav", 28, 16)
    assert len({sample.key for sample in sidecar.samples}) == len(sidecar.samples) == 2


# Webdataset leaves closing to the collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_a_shard_unchanged(videos, tmp_path, config):
    import webdataset

    spec, sidecar = made(tmp_path / "out", config, videos / "sub" / "long.mkv")
    read = list(webdataset.WebDataset(str(tmp_path / "out" / spec.name), shardshuffle=False))
    assert [sample["__key__"] for sample in read] == [sample.key for sample in sidecar.samples]
    assert len(read) == 2
    for sample in read:
        assert {
            "json",
            *(f"f{t:03d}.jpg" for t in range(8)),
            *(f"v0.f{t:03d}.png" for t in range(8)),
        } <= set(sample)
        members = {
            f"{sample['__key__']}.{name}": data
            for name, data in sample.items()
            if not name.startswith("__")
        }
        assert decode_clip(members).frames.shape == (8, 32, 32, 3)


def test_a_shard_whose_sources_and_tar_are_unchanged_is_not_built_again(videos, tmp_path, config):
    spec, sidecar = made(tmp_path / "out", config, videos / "good.mp4")
    assert make_shard(spec, tmp_path / "out", config).stats.made == 0
    assert unchanged_shard(spec, tmp_path / "out") == sidecar


def test_a_shard_is_built_again_if_a_source_has_other_bytes(videos, tmp_path, config):
    spec, sidecar = made(tmp_path / "out", config, videos / "good.mp4")
    (videos / "good.mp4").write_bytes((videos / "sub" / "long.mkv").read_bytes())
    result = make_shard(spec, tmp_path / "out", config)
    assert result.stats.made == 1
    assert result.sidecar != sidecar.digest


def test_clips_of_an_earlier_shard_are_copied_only_if_the_video_is_the_same(
    videos, tmp_path, config
):
    _, earlier = made(tmp_path / "out", config, videos / "good.mp4")
    plain, _ = made(tmp_path / "plain", config, videos / "good.mp4", videos / "sub" / "long.mkv")
    bytes_of = (tmp_path / "plain" / plain.name).read_bytes()
    copied = make_shard(plain, tmp_path / "out", config, earlier={"good.mp4#0": earlier.name})
    assert copied.stats.copied == 1
    assert (tmp_path / "out" / plain.name).read_bytes() == bytes_of

    (videos / "good.mp4").write_bytes((videos / "short.mp4").read_bytes())
    again = make_shard(plain, tmp_path / "out", config, earlier={"good.mp4#0": earlier.name})
    assert again.stats.copied == 0


def test_clips_of_a_damaged_shard_are_not_copied(videos, tmp_path, config):
    _, earlier = made(tmp_path / "out", config, videos / "good.mp4")
    path = tmp_path / "out" / earlier.name
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    plain, _ = made(tmp_path / "plain", config, videos / "good.mp4", videos / "short.mp4")
    result = make_shard(plain, tmp_path / "out", config, earlier={"good.mp4#0": earlier.name})
    assert result.stats.copied == 0
    expected = (tmp_path / "plain" / plain.name).read_bytes()
    assert (tmp_path / "out" / plain.name).read_bytes() == expected


@pytest.mark.parametrize("damage", ["tar", "json", "no tar", "no json"])
def test_a_damaged_shard_is_not_whole_and_comes_back_the_same(videos, tmp_path, config, damage):
    spec, _ = made(tmp_path / "out", config, videos / "good.mp4")
    path = tmp_path / "out" / spec.name
    path = path.with_suffix(".json") if damage.endswith("json") else path
    before = path.read_bytes()
    if damage.startswith("no"):
        path.unlink()
    else:
        middle = before.index(b"offset") + 9 if damage == "json" else len(before) // 2
        path.write_bytes(before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
    assert unchanged_shard(spec, tmp_path / "out") is None
    assert make_shard(spec, tmp_path / "out", config).stats.frames == 8
    assert path.read_bytes() == before


def test_a_file_that_vanished_after_planning_is_quarantined(videos, tmp_path, config):
    (spec,) = make_plan(find_sources([str(videos / "good.mp4")], skip=tmp_path), config, {}).shards
    (videos / "good.mp4").unlink()
    make_shard(spec, tmp_path, config)
    (entry,) = read_sealed(tmp_path / sidecar_name(spec.name), Sidecar).sources
    assert (entry.outcome, entry.stage) == ("quarantined", "read")
    assert str(videos) not in entry.reason


def test_nothing_temporary_is_left(videos, tmp_path, config):
    made(tmp_path / "out", config, videos / "good.mp4")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [name.partition(".")[2] for name in names] == ["json", "tar"]
