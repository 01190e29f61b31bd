"""The whole chain on Ray, and the two commands."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import click
import pytest

import pipeline.discover.work_plan
from corrfractal.__main__ import main
from corrfractal.common.errors import (
    BoundExceededError,
    CallError,
    CorrFractalError,
    IntegrityError,
    NotFoundError,
)
from corrfractal.files import storage
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest
from corrfractal.video import write_video
from pipeline.discover.sources import find_sources
from pipeline.discover.work_plan import make_plan
from pipeline.report.build_log import log_build
from pipeline.run import precompute
from pipeline.store.execute import MAX_DEATHS
from pipeline.store.verify import verify

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def shards(master, config, tmp_path_factory, ray_session):
    """(folder, result) of all tiny videos, made by two workers."""
    out = tmp_path_factory.mktemp("shards") / "two"
    return out, precompute([str(master)], out, config, workers=2)


def contents(folder):
    """Every file but the state, which is knowledge of one machine."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".state"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def shard_of(folder, uri):
    """Name of the shard that holds a source."""
    rows = Index(folder, load_manifest(folder)).source_table.to_pylist()
    return next(row["shards"][0] for row in rows if row["uri"] == uri)


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_bytes(shards, master, config, tmp_path, workers):
    moved = shutil.copytree(master, tmp_path / "mounted elsewhere")
    result = precompute([str(moved)], tmp_path / "out", config, workers=workers)
    assert result.digest == shards[1].digest
    assert contents(tmp_path / "out") == contents(shards[0])


def test_every_source_is_sampled_quarantined_or_rejected(shards):
    out, result = shards
    assert (result.sources, result.sampled, result.quarantined, result.rejected) == (6, 2, 3, 1)
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [line["uri"] for line in lines] == ["cut.mkv", "cut.mp4", "text.mp4"]
    assert {tuple(line) for line in lines} == {
        ("uri", "stage", "reason", "first_bad_frame", "frames_salvaged", "decoder")
    }
    assert [line["frames_salvaged"] for line in lines] == [8, 0, 0]


def test_the_manifest_leads_to_every_sample(shards):
    out, result = shards
    manifest = load_manifest(out)
    assert manifest.digest == result.digest
    index = Index(out, manifest)
    assert len(index.clips) == len(list(index.sample_refs())) == result.samples == 4
    uris = [source.uri for source in index.sources]
    assert uris == sorted(uris)
    urls = (out / "urls.txt").read_text().splitlines()
    assert urls == [shard.name for shard in index.shards]
    assert sorted(urls) == sorted(path.name for path in out.glob("*.tar"))


def test_a_complete_run_is_not_repeated(shards, master, config):
    out, result = shards
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    again = precompute([str(master)], out, config)
    assert (again.made, again.frames, again.digest) == (0, 0, result.digest)
    assert before == {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}


@pytest.mark.parametrize(
    "name",
    [
        ".shard-0123456789abcdef.tar.a1b2.tmp",
        ".shard-0123456789abcdef.json.17.tmp",
        ".shard-0123456789abcdef.tar.segment",
        "..shard-0123456789abcdef.tar.segment.17.tmp",
        ".shard-000000.tar.segment",
        ".manifest.json.17.tmp",
    ],
)
def test_what_a_killed_run_left_half_written_is_cleared_away_and_the_users_files_stay(
    shards, master, config, name
):
    out, _ = shards
    for left in (name, "notes.tmp"):
        (out / left).write_bytes(b"half")
    precompute([str(master)], out, config)
    assert not (out / name).exists()
    (out / "notes.tmp").unlink()


def test_a_flipped_byte_is_found_and_mended(shards, master, config, tmp_path):
    out = shutil.copytree(shards[0], tmp_path / "out")
    path = out / shard_of(out, "good.mp4")
    facts = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert [line for line in verify(out).damaged if path.name in line]
    assert precompute([str(master)], out, config).made == 1
    assert not verify(out).damaged
    assert contents(out) == contents(shards[0])


def test_a_damaged_manifest_is_told_and_comes_back(shards, master, config, tmp_path):
    out = shutil.copytree(shards[0], tmp_path / "out")
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace('"samples": 4', '"samples": 5'))
    with pytest.raises(IntegrityError, match="digest does not fit"):
        load_manifest(out)
    precompute([str(master)], out, config)
    assert (out / "manifest.json").read_text() == text


def test_only_the_shards_of_a_changed_video_are_made_again(
    shards, master, config, tmp_path, moving_frames
):
    videos, out = (
        shutil.copytree(master, tmp_path / "videos"),
        shutil.copytree(shards[0], tmp_path / "out"),
    )
    write_video(videos / "good.mp4", moving_frames[::-1], fps=24)
    result = precompute([str(videos)], out, config)
    assert result.made == 1
    assert result.digest != shards[1].digest


def test_shards_of_an_earlier_configuration_do_not_stay(shards, master, config, tmp_path):
    out = shutil.copytree(shards[0], tmp_path / "out")
    (out / "mine.txt").write_text("not ours")
    result = precompute([str(master)], out, dataclasses.replace(config, videos_per_shard=6, seed=1))
    assert result.shards == 1
    assert len(list(out.glob("shard-*.tar"))) == len(list(out.glob("shard-*.json"))) == 1
    assert sorted(name for name in contents(out) if not name.startswith("shard-")) == [
        "index/clips/part-00000.parquet", "index/shards.parquet", "index/sources.parquet",
        "manifest.json", "mine.txt", "plan.json", "quarantine.jsonl", "urls.txt",
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["SCHEMA", "library_versions"])
def test_another_schema_or_library_makes_every_shard_anew(
    shards, master, config, monkeypatch, change
):
    value = 99 if change == "SCHEMA" else lambda config: {"decord": "99"}
    sources = find_sources([str(master)], skip=shards[0])
    before = make_plan(sources, config, {})
    monkeypatch.setattr(pipeline.discover.work_plan, change, value)
    after = make_plan(sources, config, {})
    assert len(before.shards) > 1
    assert not {shard.digest for shard in before.shards} & {shard.digest for shard in after.shards}


def test_labels_on_a_gpu_need_one(videos, config, tmp_path):
    config = dataclasses.replace(config, device="cuda")
    with pytest.raises(CallError, match="no GPU"):
        precompute([str(videos)], tmp_path / "out", config)


def test_a_task_takes_a_share_of_a_gpu_only_where_labels_are_made_on_one(config):
    on_gpu = dataclasses.replace(config, device="cuda", gpus_per_task=0.5)
    assert config.task_resources() == {"num_cpus": 1, "num_gpus": 0}
    assert on_gpu.task_resources() == {"num_cpus": 1, "num_gpus": 0.5}
    assert (
        on_gpu.recipe()
        == dataclasses.replace(on_gpu, gpus_per_task=0.1).recipe()
        != config.recipe()
    )


def test_quarantined_sources_are_tried_again_on_request(shards, master, config, tmp_path):
    out = shutil.copytree(shards[0], tmp_path / "out")
    result = precompute([str(master)], out, config, retry_quarantined=True)
    assert result.made == 2
    assert result.digest == shards[1].digest


def test_loss_beyond_the_bound_is_a_failure(shards, master, config):
    with pytest.raises(BoundExceededError, match="3 of 6 sources"):
        precompute([str(master)], shards[0], dataclasses.replace(config, max_bad=0.4))
    assert (
        precompute([str(master)], shards[0], dataclasses.replace(config, max_bad=0.5)).quarantined
        == 3
    )


def test_the_same_bytes_under_two_names_are_sampled_once(videos, config, tmp_path):
    shutil.copy(videos / "good.mp4", videos / "twin.mp4")
    result = precompute(
        [str(videos / "good.mp4"), str(videos / "twin.mp4")], tmp_path / "out", config
    )
    assert (result.sources, result.sampled, result.rejected, result.samples) == (2, 1, 1, 1)


def test_no_usable_video_at_all_is_an_error(videos, config, tmp_path):
    with pytest.raises(CorrFractalError, match="none of the 2 sources gave a clip"):
        precompute([str(videos / "text.mp4"), str(videos / "short.mp4")], tmp_path / "out", config)
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(NotFoundError, match="no finished shards"):
        load_manifest(tmp_path / "out")


def test_shards_of_others_are_left_alone(videos, config, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "shard-000000.tar").write_text("precious")
    with pytest.raises(CallError, match="did not write"):
        precompute([str(videos)], tmp_path / "out", config)


def test_sources_and_shards_in_a_bucket_are_the_same_data_set(shards, master, config, tmp_path, s3):
    for path in master.rglob("*.m*"):
        storage.write(f"{s3}/{tmp_path.name}/videos/{path.relative_to(master)}", path.read_bytes())
    sources, out = [f"{s3}/{tmp_path.name}/videos"], f"{s3}/{tmp_path.name}/shards"
    assert precompute(sources, out, config, workers=2).digest == shards[1].digest
    names = contents(shards[0])
    assert {name: storage.read(f"{out}/{name}") for name in names} == names
    assert precompute(sources, out, config).made == 0
    location = f"{out}/{shard_of(shards[0], 'good.mp4')}"
    storage.write(location, b"flipped" + storage.read(location)[7:])
    assert [line for line in verify(out).damaged if location in line]
    assert precompute(sources, out, config).made == 1
    assert not verify(out).damaged


def test_a_video_that_kills_its_worker_every_time_is_quarantined_and_its_neighbour_is_sampled(
    videos, config, tmp_path, moving_frames
):
    write_video(videos / "victim.mp4", [moving_frames[t % 24] for t in range(24 * 60)], fps=24)
    config = dataclasses.replace(config, size=128)
    out, done = tmp_path / "out", threading.Event()

    def kill_whoever_reads_the_victim():
        handled, kills = 0, 0
        while not done.is_set() and kills < MAX_DEATHS:
            time.sleep(0.02)
            note = next(out.glob(".shard-*.tar.segment"), None)
            if (
                note is not None
                and note.exists()
                and note.stat().st_mtime_ns != handled
                and '"victim.mp4#0"' in note.read_text()
            ):
                handled = note.stat().st_mtime_ns
                for pid in own_processes("ray::make_shard"):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1

    killer = threading.Thread(target=kill_whoever_reads_the_victim)
    killer.start()
    try:
        result = precompute(
            [str(videos / "good.mp4"), str(videos / "victim.mp4")], out, config, workers=1
        )
    finally:
        done.set()
        killer.join()
    assert (result.sampled, result.quarantined) == (1, 1)
    assert "killed the worker" in (out / "quarantine.jsonl").read_text()


def own_processes(title):
    """Ids of this process's descendants whose command line begins with ``title``."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    for pid in parents:
        ancestor = pid
        while ancestor not in (0, 1, os.getpid()):
            ancestor = parents.get(ancestor, 0)
        with contextlib.suppress(OSError):
            if ancestor == os.getpid() and Path(f"/proc/{pid}/cmdline").read_bytes().startswith(
                title.encode()
            ):
                yield pid


def json_of(*arguments):
    """What a command prints with --json, which must be one object and nothing else."""
    command = [sys.executable, "-m", "corrfractal", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def test_a_complete_folder_passes_verify_on_the_command_line(shards):
    assert json_of("verify", shards[0])["digest"] == shards[1].digest


def test_json_mode_prints_one_object(shards, master, tmp_path):
    (tmp_path / "c.toml").write_text(
        "[precompute]\nsize = 32\nvideos_per_shard = 2\nquantization = {fit_pixels = 512, "
        "iterations = 5}\n"
    )
    out = shutil.copytree(shards[0], tmp_path / "out")
    result = json_of(
        "precompute", master, "--out", out, "--config", tmp_path / "c.toml", "--max-bad", "50%"
    )
    assert result["digest"] == shards[1].digest
    assert result["sources"] == result["sampled"] + result["quarantined"] + result["rejected"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["gone.mp4", "--out", "x"], 2, "no such video"),
        (["--out", "x"], 2, "Missing argument"),
        ([".", "--out", "x", "--max-bad", "lots"], 2, "is no share"),
        ([".", "--out", "x", "--config", "gone.toml"], 2, "no such configuration"),
        ([".", "--out", "x", "--config", "flat.toml"], 2, "no [precompute] table"),
    ],
)
def test_wrong_calls_exit_with_two_and_a_sentence(
    arguments, code, words, capfd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat.toml").write_text("size = 128\n")
    with pytest.raises(SystemExit) as caught:
        main(["precompute", *arguments])
    assert caught.value.code == code
    error = capfd.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "x").exists()


def test_shares_are_percentages_or_fractions():
    from pipeline.cli import ShareOption

    assert [ShareOption().convert(text, None, None) for text in ("1%", "0.01", "100%")] == [
        0.01,
        0.01,
        1.0,
    ]
    with pytest.raises(click.BadParameter):
        ShareOption().convert("101%", None, None)


# In MLflow
@pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)
def test_a_tracked_build_is_a_run_with_the_manifest_as_its_data_set(shards, tmp_path):
    import mlflow

    uri = f"sqlite:///{tmp_path}/store.db"
    run = mlflow.MlflowClient(uri).get_run(log_build(uri, str(shards[0]), {"seconds": 1.5}))
    assert (run.data.metrics["quarantined"], run.data.metrics["seconds"]) == (3, 1.5)
    assert run.data.params["clip.frames"] == "8"
    assert run.data.metrics["health.entropy"] == pytest.approx(
        load_manifest(shards[0]).statistics.labels.entropy
    )
    assert sum(
        run.data.metrics[f"health.occupancy.{rank:02d}"] for rank in range(16)
    ) == pytest.approx(1)
    table = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/shard_health.jsonl")
    assert [json.loads(line)["clips"] for line in table.splitlines()] == [
        shard.samples for shard in Index(shards[0], load_manifest(shards[0])).shards
    ]
    assert run.data.tags["shards.digest"] == shards[1].digest
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.digest == shards[1].digest[:36]


def test_counts_are_served_to_prometheus_on_loopback(shards):
    import ray

    (node,) = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    for _ in range(60):  # Ray passes them on every few seconds
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        if "ray_corrfractal_videos_total{" in text or "ray_corrfractal_videos{" in text:
            break
        time.sleep(0.5)
    assert re.search(r'ray_corrfractal_videos(_total)?\{.*outcome="quarantined".*\} [1-9]', text)
    assert node["NodeManagerAddress"] == "127.0.0.1"
