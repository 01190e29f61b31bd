"""Shards, models and checkpoints that someone made to do harm: refused with the file's name, and
nothing runs."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.common.config import config_to_dict
from corrfractal.common.errors import IntegrityError
from corrfractal.common.text import without_password
from corrfractal.shards.clip import read_members
from corrfractal.shards.index import CLIP_SCHEMA, SHARD_SCHEMA, Index, write_index
from corrfractal.shards.manifest import load_manifest
from training.config import TrainingConfig
from training.data.cache import ShardFiles
from training.data.samples import read_samples
from training.state.checkpoint import read_checkpoint

SMALL = CorrFractalConfig(width=4, embedding_channels=8)


def member(
    name: str, contents: bytes = b"x", size: bytes | None = None, kind: bytes = b"0"
) -> bytes:
    """A member of a tar (POSIX ustar) with whatever a header may claim."""
    header = bytearray(512)
    header[: len(name)] = name.encode()
    header[124:136] = (b"%011o" % len(contents) if size is None else size) + b"\0"
    header[156:157] = kind
    header[257:263] = b"ustar\0"
    return bytes(header) + contents + bytes(-len(contents) % 512)


@pytest.mark.parametrize(
    "block",
    [
        member("../../etc/passwd"),
        member("/etc/passwd"),
        member("a/b.json"),
        member("link", kind=b"2"),
        member("device", kind=b"3"),
        member("huge.json", size=b"77777777777"),
        member("back.json", size=b"-0000001000"),
        member("odd.json", size=b"0_000000010"),
        member("same.json") + member("same.json"),
        b"\0" * 1024,
        b"no tar at all",
    ],
    ids=lambda block: block[:20].rstrip(b"\0").decode() or "zeros",
)
def test_a_hostile_tar_is_refused_before_anything_of_it_is_used(block: bytes) -> None:
    with pytest.raises(IntegrityError):
        read_members(block)


def test_what_read_members_takes_is_exactly_what_was_written() -> None:
    block = member("k.json", b"{}") + member("k.f000.jpg", b"j" * 700)
    assert read_members(block) == {"k.json": b"{}", "k.f000.jpg": b"j" * 700}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../shard-000000.tar"},
        {"name": "/etc/shard-000000.tar"},
        {"sha256": "../../" + "a" * 58},
        {"bytes": -1},
    ],
    ids=str,
)
def test_a_manifest_cannot_name_a_file_elsewhere(
    tmp_path: Path, tiny_shards: Path, change: dict[str, object]
) -> None:
    manifest = load_manifest(tiny_shards)
    index = Index(tiny_shards, manifest)
    rows = index.shard_table.to_pylist()
    rows[0].update(change)
    clips = pa.concat_tables(list(index.clip_tables()))
    shards = pa.Table.from_pylist(rows, SHARD_SCHEMA)
    files = write_index(tmp_path, shards, clips, index.source_table)
    hostile = Index(tmp_path, replace(manifest, index=files))
    with pytest.raises(IntegrityError, match=r"shards\.parquet"):
        _ = hostile.shards
    with pytest.raises(IntegrityError, match=r"shards\.parquet"):
        _ = hostile.clips


@pytest.mark.parametrize(
    "change", [{"offset": -512}, {"length": -1}, {"shard": 99}, {"shard": 1}], ids=str
)
def test_an_index_cannot_point_outside_its_shards(
    tmp_path: Path, tiny_shards: Path, change: dict[str, object]
) -> None:
    manifest = load_manifest(tiny_shards)
    index = Index(tiny_shards, manifest)
    rows = pa.concat_tables(list(index.clip_tables())).to_pylist()
    rows[0].update(change)
    clips = pa.Table.from_pylist(rows, CLIP_SCHEMA)
    files = write_index(tmp_path, index.shard_table, clips, index.source_table)
    with pytest.raises(IntegrityError, match="index/clips"):
        _ = Index(tmp_path, replace(manifest, index=files)).clips


def hostile_models(folder: Path) -> dict[str, Path]:
    """Files that claim to be models of this project."""
    good = {"format": "corrfractal/1", "config": json.dumps(config_to_dict(SMALL))}
    tensors = CorrFractal(SMALL).state_dict()
    huge = json.dumps({**config_to_dict(SMALL), "width": 1 << 20})
    files = {
        "a network of terabytes": {**good, "config": huge},
        "no configuration": {"format": "corrfractal/1"},
        "a configuration that is no JSON": {**good, "config": "{" * 100_000},
        "an unknown field": {**good, "config": json.dumps({"__class__": "os.system"})},
    }
    paths = {}
    for name, metadata in files.items():
        paths[name] = folder / f"{len(paths)}.safetensors"
        save_file(tensors, paths[name], metadata)
    whole = folder / "whole.safetensors"
    save_file(tensors, whole, good)
    data = whole.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    first = next(name for name in header if name != "__metadata__")

    def changed(name: str, offsets: list[int]) -> None:
        text = json.dumps({**header, first: {**header[first], "data_offsets": offsets}}).encode()
        paths[name] = folder / f"{len(paths)}.safetensors"
        paths[name].write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    changed("a tensor beyond the end", [0, 1 << 40])
    changed("a tensor before the beginning", [1 << 40, 0])
    for name, contents in {
        "a header of exabytes": struct.pack("<Q", 1 << 62) + data[8:],
        "cut short": data[:-100],
        "empty": b"",
        "a pickle": pickle.dumps(Runs()),
    }.items():
        paths[name] = folder / f"{len(paths)}.safetensors"
        paths[name].write_bytes(contents)
    return paths


class Runs:
    """Unpickled, it makes a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["EXECUTED"],)


def test_a_hostile_model_file_is_refused_and_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXECUTED", str(tmp_path / "executed"))
    for name, path in hostile_models(tmp_path).items():
        with pytest.raises(IntegrityError, match=str(path)):
            pytest.fail(f"{name}: {CorrFractal.load(path)}")
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXECUTED", str(tmp_path / "executed"))
    path = tmp_path / "step-00000001.pt"
    torch.save({"step": 1}, path)
    with zipfile.ZipFile(path) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as evil:
        for name, contents in parts.items():
            evil.writestr(
                name, pickle.dumps(Runs(), protocol=2) if name.endswith("data.pkl") else contents
            )
    path.with_suffix(".json").write_text(
        json.dumps({"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    )
    with pytest.raises(IntegrityError, match="step-00000001"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_a_password_in_a_uri_is_not_shown() -> None:
    assert (
        without_password("postgresql+psycopg2://ann:s3cret@db:5432/m")
        == "postgresql+psycopg2://ann:***@db:5432/m"
    )
    for plain in (
        "sqlite:////data/mlflow.db",
        "http://127.0.0.1:5000",
        "https://ann@host/x?y=1",
        "relative/path",
    ):
        assert without_password(plain) == plain
    assert without_password("no answer from http://ann:a:b@c@host:80/x and s3://k:v@b") == (
        "no answer from http://ann:***@host:80/x and s3://k:***@b"
    )


def test_an_index_cannot_make_a_reader_take_more_than_the_shard_holds(tiny_shards: Path) -> None:
    files = ShardFiles(tiny_shards, 2)
    first = read_samples(tiny_shards, TrainingConfig()).shard(0)
    for offset, length in ((0, 1 << 60), (first.bytes, 1), (-512, 512)):
        with pytest.raises(IntegrityError, match=first.name):
            files.read(first, offset, length)
    assert len(files.read(first, 0, 512)) == 512
