"""Lineage from a model to its videos and from a video to its models; exported folders."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from corrfractal import CorrFractal
from corrfractal.__main__ import main
from corrfractal.files.atomic import file_sha256
from corrfractal.registry.lineage import Lineage
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest, load_sidecar
from training.state.run_log import start_run

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def corrfractal(store: str, *arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--tracking-uri", store])


def test_a_model_leads_to_run_checkpoint_manifest_shards_and_videos(
    store: str, registered: tuple[Path, list[Path]], tiny_shards: Path
) -> None:
    manifest, out = load_manifest(tiny_shards), registered[1][0]
    found = Lineage(store).of_model("models:/corrfractal/1")
    assert (found.run.name, found.run.status) == ("run0", "FINISHED")
    assert found.weights == file_sha256(out / "model.safetensors")
    assert found.checkpoint.path == str(out / "checkpoints" / "step-00000004.pt")
    assert found.checkpoint.state == "whole"
    assert found.data is not None
    index = Index(tiny_shards, manifest)
    assert (found.data.digest, found.data.shards) == (manifest.digest, index.shards)
    held = {
        shard.name: {s.sha256 for s in load_sidecar(tiny_shards, shard).sources if s.clips}
        for shard in index.shards
    }
    for video in found.data.videos:
        assert video.shards == tuple(
            name for name, sources in held.items() if video.source.sha256 in sources
        )

    told = corrfractal(store, "lineage", out / "model.safetensors").output
    assert "models:/corrfractal/1" in told
    named = [manifest.digest, found.run.id, found.checkpoint.path, found.weights]
    named += [item.sha256 for item in (*index.shards, *index.sources)]
    assert [name for name in named if name not in told] == []


def test_a_checkpoint_that_is_gone_or_changed_is_said_to_be(
    store: str, registered: tuple[Path, list[Path]]
) -> None:
    path = registered[1][0] / "checkpoints" / "step-00000004.pt"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1])
        assert Lineage(store).of_model("1").checkpoint.state == "damaged"
        path.unlink()
        assert Lineage(store).of_model("1").checkpoint.state == "gone"
    finally:
        path.write_bytes(whole)


def test_a_video_is_known_by_its_contents_and_leads_to_shards_and_models(
    store: str, tiny_shards: Path, tiny_videos: Path, tiny_video: Path, tmp_path: Path
) -> None:
    shutil.copyfile(tiny_videos / "v1.mp4", tmp_path / "renamed.mp4")
    unfinished = start_run(store, "unfinished", {}, tiny_shards, load_manifest(tiny_shards).digest)
    told = corrfractal(store, "lineage", "--video", tmp_path / "renamed.mp4").output
    assert re.search(r"called v1\.mp4, sampled: \d+ clips in shard-[0-9a-f]{16}\.tar$", told, re.M)
    assert "-> models:/corrfractal/1 (no alias)" in told
    assert "-> models:/corrfractal/2 (candidate)" in told
    assert f"-> run {unfinished} 'unfinished', running, no registered model" in told

    told = corrfractal(store, "lineage", "--video", tiny_video).output
    assert "no data set of this store contains it" in told


def test_shards_lead_both_ways(store: str, tiny_shards: Path, tmp_path: Path) -> None:
    told = corrfractal(store, "lineage", "--shards", tiny_shards).output
    assert all(
        name in told
        for name in ("models:/corrfractal/1", "models:/corrfractal/2", "v0.mp4", "v2.mp4")
    )
    assert corrfractal(store, "lineage", "--shards", tmp_path).exit_code == 2
    assert corrfractal(store, "lineage").exit_code == 2


def test_an_exported_folder_needs_nothing_else(
    store: str, registered: tuple[Path, list[Path]], tiny_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "exported"
    done = corrfractal(store, "models", "export", "1", "--out", out)
    assert done.exit_code == 0, done.output
    sums = dict(
        reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines()
    )
    assert sums == {p.name: file_sha256(p) for p in out.iterdir() if p.name != "SHA256SUMS"}
    moved = shutil.move(out, tmp_path / "elsewhere")
    ours, theirs = (
        CorrFractal.load(Path(f) / "model.safetensors").state_dict()
        for f in (moved, registered[1][0])
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lineage = json.loads((Path(moved) / "lineage.json").read_text())
    assert lineage["data"]["digest"] == load_manifest(tiny_shards).digest
    assert lineage["data"]["digest"] in (Path(moved) / "README.md").read_text()
    assert corrfractal(store, "models", "export", "1", "--out", moved).exit_code == 2
