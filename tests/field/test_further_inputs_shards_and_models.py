"""Unusual shards, models and configurations: used as intended, or refused in one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cluster.config import read_workflow
from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.common.config import config_to_dict
from corrfractal.common.errors import CallError, ConfigError, CorrFractalError, IntegrityError
from corrfractal.files import storage
from corrfractal.labels.quantization import QuantizationConfig
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import Manifest, load_manifest
from inference.propagate import propagate_video
from pipeline.config import PipelineConfig
from tests.field.build_inputs import FAST, picture, write
from tests.local_build import build_shards, verify
from training.config import TrainingConfig, with_settings
from training.data.cache import ShardFiles
from training.data.samples import Shard

SMALL = CorrFractalConfig(width=4, embedding_channels=8)
CONFIG = PipelineConfig(
    size=32, videos_per_shard=1, quantization=QuantizationConfig(fit_pixels=512, iterations=5)
)
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def build(videos: Path, out: Path) -> Manifest:
    """Build shards as ``corrfractal precompute`` does, in this process."""
    return build_shards([videos], out, CONFIG)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def swap_contents(first: Path, second: Path) -> None:
    contents_of_first = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(contents_of_first)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of one clip each."""
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "a.mp4", 26)
    write(folder / "b.mp4", [picture(k + 5) for k in range(26)])
    return folder


@pytest.fixture(scope="module")
def built(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two shards of ``videos``, read only."""
    out = tmp_path_factory.mktemp("built") / "shards"
    assert build(videos, out).statistics.samples == 2
    return out


@pytest.fixture
def shards(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built``."""
    return Path(shutil.copytree(built, tmp_path / "shards"))


# Models


def save_model(path: Path, change: Any = lambda weights: weights, **config: Any) -> Path:
    weights = {name: change(value) for name, value in CorrFractal(SMALL).state_dict().items()}
    values = {**config_to_dict(SMALL), **config}
    save_file(weights, path, {"format": "corrfractal/1", "config": json.dumps(values)})
    return path


def of_real_numbers(change: Any) -> Any:
    return lambda value: change(value) if value.is_floating_point() else value


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_a_model_of_a_diverged_run_is_refused(tmp_path, bad):
    """Propagation returned background for every pixel of every frame, with exit code 0."""
    path = save_model(
        tmp_path / "m.safetensors", of_real_numbers(lambda value: torch.full_like(value, bad))
    )
    with pytest.raises(IntegrityError, match=r"m\.safetensors .*finite"):
        CorrFractal.load(path)


def test_a_quantised_model_is_refused_and_one_of_half_precision_is_read(tmp_path):
    half = save_model(tmp_path / "half.safetensors", of_real_numbers(lambda value: value.half()))
    assert all(p.dtype == torch.float32 for p in CorrFractal.load(half).parameters())
    quantised = save_model(
        tmp_path / "int8.safetensors", of_real_numbers(lambda value: (value * 127).to(torch.int8))
    )
    with pytest.raises(IntegrityError, match=r"int8\.safetensors"):
        CorrFractal.load(quantised)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_a_model_with_non_finite_numbers_in_its_configuration_is_refused(tmp_path, bad):
    correspondence = {**config_to_dict(SMALL)["correspondence"], "refinement_density": bad}
    path = save_model(tmp_path / "m.safetensors", correspondence=correspondence)
    with pytest.raises(IntegrityError, match="refinement_density"):
        CorrFractal.load(path)


def test_a_git_lfs_pointer_is_named_as_such(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(LFS_POINTER)
    with pytest.raises(IntegrityError, match="git lfs pull"):
        CorrFractal.load(tmp_path / "m.safetensors")


def test_weights_with_the_prefix_of_a_wrapper_are_refused_with_their_names(tmp_path):
    """``DistributedDataParallel`` adds this prefix."""
    weights = {f"module.{name}": value for name, value in CorrFractal(SMALL).state_dict().items()}
    metadata = {"format": "corrfractal/1", "config": json.dumps(config_to_dict(SMALL))}
    save_file(weights, tmp_path / "m.safetensors", metadata)
    with pytest.raises(IntegrityError, match="do not fit"):
        CorrFractal.load(tmp_path / "m.safetensors")


# Configurations


def test_a_configuration_saved_by_a_windows_editor_is_read(tmp_path):
    (tmp_path / "w.toml").write_bytes(b'\xef\xbb\xbfsources = ["a"]\r\nout = "x"\r\n')
    assert read_workflow(tmp_path / "w.toml").out == str(tmp_path / "x")


@pytest.mark.parametrize(
    "text",
    [
        'rung = ["+A"]',
        "training = 3",
        "precompute = 3",
        "evaluation = 3",
        '[training]\npreset = "nope"',
        '[training]\nprofile = "tpu"',
        "[training]\nprofile = 3",
        "[training]\nlearning_rate = nan",
        "[training]\nlearning_rate = inf",
        "[precompute.clip]\nfps = nan",
        "a = " + "[" * 20_000,
        "out = 2026-11-26",
    ],
    ids=lambda text: text[:30],
)
def test_an_invalid_configuration_is_one_sentence_with_the_file(tmp_path, text):
    head = 'sources = ["a"]\n' if text.startswith("out") else 'sources = ["a"]\nout = "x"\n'
    (tmp_path / "w.toml").write_text(head + text + "\n")
    with pytest.raises(ConfigError, match=r"w\.toml") as caught:
        read_workflow(tmp_path / "w.toml")
    assert len(str(caught.value)) < 500


def test_a_configuration_in_utf_16_is_read_and_one_in_latin_1_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "w.toml").write_text('sources = ["a"]\nout = "x"', encoding="utf-16")
    assert read_workflow(tmp_path / "w.toml").sources == (str(tmp_path / "a"),)
    (tmp_path / "w.toml").write_text('sources = ["\u00e9"]', encoding="latin-1")
    with pytest.raises(ConfigError, match=r"w\.toml"):
        read_workflow(tmp_path / "w.toml")


@pytest.mark.parametrize(
    "setting", ["learning_rate.x=1", "learning_rate=nan", "network=3", "epochs=" + "[" * 20_000]
)
def test_an_invalid_setting_is_refused_in_one_sentence(setting):
    with pytest.raises(ConfigError, match="--set") as caught:
        with_settings(TrainingConfig(), (setting,))
    assert len(str(caught.value)) < 500


# The cache of remote shards


def cached(uri: str, folder: Path) -> tuple[ShardFiles, Shard, Path]:
    """One remote shard of 1000 bytes, fetched by another run on this host."""
    data = b"\1" * 1000
    storage.write(storage.join(uri, "shard-0123456789abcdef.tar"), data)
    sha256 = hashlib.sha256(data).hexdigest()
    shard = Shard(0, "shard-0123456789abcdef.tar", sha256, 1000)
    ShardFiles(uri, 8, folder, limit=5000).ready(shard)
    return ShardFiles(uri, 8, folder, limit=5000), shard, folder / f"{sha256}.tar"


@pytest.mark.parametrize("damaged", [b"", b"\1" * 600, b"\2" * 1000], ids=["empty", "cut", "other"])
def test_a_cached_shard_that_was_damaged_on_this_host_is_fetched_again(tmp_path, damaged):
    """After a power cut every later run failed with an error about the store (MosaicML streaming
    issues 345, 759)."""
    files, shard, path = cached("memory://damaged", tmp_path)
    path.write_bytes(damaged)
    assert files.read(shard, 990, 10) == b"\1" * 10
    assert path.read_bytes() == b"\1" * 1000


def test_other_files_in_the_cache_folder_are_neither_counted_nor_removed(tmp_path):
    """MosaicML streaming evicted local data as if they were a cache (issue 988)."""
    foreign = {"mine.tar": b"m" * 9000, "backup.part": b"", "x.1.notes.part": b"n"}
    for name, data in foreign.items():
        (tmp_path / name).write_bytes(data)
    files, shard, _ = cached("memory://shared", tmp_path)
    assert files.read(shard, 0, 3) == b"\1" * 3
    assert foreign.items() <= contents(tmp_path).items()


# Shards


def test_swapped_shards_are_detected(shards):
    first, second = sorted(shards.glob("shard-*.tar"))[:2]
    swap_contents(first, second)
    assert len(verify(shards)) == 2


def test_swapped_sidecars_are_detected_and_rebuilt(shards, videos, built):
    first, second = sorted(shards.glob("shard-*.json"))[:2]
    swap_contents(first, second)
    assert len(verify(shards)) == 2
    assert build(videos, shards).digest == load_manifest(built).digest
    assert not verify(shards)


@pytest.mark.parametrize("fault", ["cut", "grown", "deleted", "folder"])
def test_a_damaged_shard_is_detected_and_rebuilt(shards, videos, built, fault):
    """A corrupted tar ended training (WebDataset issue 142)."""
    path = sorted(shards.glob("shard-*.tar"))[1]
    data = path.read_bytes()
    path.unlink()
    if fault == "folder":
        path.mkdir()
    elif fault != "deleted":
        path.write_bytes(data[: len(data) // 2] if fault == "cut" else data + bytes(512))
    assert len(verify(shards)) == 1
    if fault == "folder":  # a build never deletes a folder that it did not create
        with pytest.raises((CorrFractalError, OSError), match=path.name):
            build(videos, shards)
    else:
        build(videos, shards)
        assert contents(shards) == contents(built)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", '{"schema": 3}', "\ufeff{}", "[" * 100_000, '{"name": "web app"}'],
    ids=repr,
)
def test_an_invalid_manifest_is_refused_in_one_sentence(shards, text):
    """MosaicML streaming issue 345: "Index file is empty or corrupted"."""
    (shards / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"manifest\.json") as caught:
        verify(shards)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("plan.json",),
        ("manifest.json",),
        ("quarantine.jsonl",),
        ("shard-000000.tar",),
        ("plan.json", "shard-000000.tar"),
        ("plan.json", "shard-000000.json"),
        ("shard-0123456789abcdef.tar",),
    ],
    ids=" ".join,
)
def test_a_folder_with_files_of_the_same_names_from_another_program_is_not_written_to(
    videos, tmp_path, names
):
    """WebDataset uses the same names for tars; web pages have a manifest.json, many projects a
    plan.json."""
    out = tmp_path / "out"
    out.mkdir()
    foreign = dict.fromkeys(names, b'{"name": "mine"}')
    for file, data in foreign.items():
        (out / file).write_bytes(data)
    with pytest.raises(CallError):
        build(videos, out)
    assert contents(out) == foreign


def test_files_of_others_in_a_folder_of_shards_survive_the_next_build(shards, videos):
    """Files were once removed by a pattern of names."""
    foreign = {
        "shard-000099.tar": b"mine",
        "shard-000099.json": b'{"name": "mine"}',
        "notes.tar": b"mine",
    }
    for name, data in foreign.items():
        (shards / name).write_bytes(data)
    with contextlib.suppress(CorrFractalError):  # refusing to build is acceptable too
        build(videos, shards)
    assert foreign.items() <= contents(shards).items()


# Sources


def outcomes(folder: Path, out: Path) -> dict[str, tuple[str, str]]:
    entries = Index(out, build(folder, out)).sources
    return {entry.uri: (entry.outcome, entry.reason or "") for entry in entries}


def test_every_odd_source_has_an_outcome_and_none_stops_the_others(videos, tmp_path):
    folder = Path(shutil.copytree(videos, tmp_path / "videos"))

    def last_for_ten_seconds(packets: list[Any]) -> list[Any]:
        packets[-1].duration = 240
        return packets

    write(folder / "recording.mp4", [picture(k + 9) for k in range(26)], edit=last_for_ten_seconds)
    cut = write(
        folder / "cut.mp4", 60, options={**FAST, "g": "12"}, edit=lambda packets: packets[5:]
    )
    cut.rename(folder / "12:30.mp4")
    (folder / "pointer.mp4").write_bytes(LFS_POINTER)
    os.mkfifo(folder / "pipe.mp4")
    outcome_by_uri = outcomes(folder, tmp_path / "out")
    assert {uri: outcome for uri, (outcome, _) in outcome_by_uri.items()} == {
        "a.mp4": "sampled",
        "b.mp4": "sampled",
        "recording.mp4": "sampled",
        "12:30.mp4": "sampled",
        "pointer.mp4": "quarantined",
        "pipe.mp4": "quarantined",
    }
    assert all(reason for outcome, reason in outcome_by_uri.values() if outcome != "sampled")


# A folder of masks with a propagation.json of another program


@pytest.mark.parametrize(
    "note",
    [
        "[]",
        "null",
        '{"frames": "many", "digest": 3}',
        '{"frames": 1000000000000, "digest": "x"}',
        "\ufeff{}",
        "[",
    ],
    ids=repr,
)
def test_an_invalid_note_next_to_the_masks_does_not_stop_or_hang_propagation(tmp_path, note):
    frames = tmp_path / "frames"
    out = tmp_path / "out"
    frames.mkdir()
    out.mkdir()
    for number in range(3):
        Image.fromarray(picture(number)).save(frames / f"{number:05d}.png")
    mask = np.zeros((160, 192), dtype=np.uint8)
    mask[60:120, 20:80] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (out / "propagation.json").write_text(note, encoding="utf-8")
    try:
        assert propagate_video(frames, tmp_path / "mask.png", out, "baseline:copy").frames == 3
    except CallError as exc:
        assert "propagation.json" in str(exc)  # noqa: PT017 (either is right)
