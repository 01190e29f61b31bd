"""The page of the format is enough to read the shards: its code is run here, with none of ours."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import corrfractal.shards
from corrfractal.common.config import digest
from corrfractal.shards.clip import SCHEMA, decode_clip, read_members
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "format.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


def run(block: str, folder: Path) -> list[str]:
    """Lines that a block of the page prints, beside the folder ``shards``, where this project
    cannot be imported."""
    hidden = (
        "import sys; sys.modules.update(dict.fromkeys(['corrfractal', 'pipeline', 'training']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", hidden + block], cwd=folder.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_page_has_four_short_readers_and_the_schema_at_hand():
    assert len(BLOCKS) == 4
    assert all(len([line for line in block.splitlines() if line.strip()]) <= 15 for block in BLOCKS)
    assert f"This is schema {SCHEMA}." in PAGE


def test_its_plain_reader_finds_every_clip(made_shards):
    printed = run(BLOCKS[0], made_shards)
    index = all_refs(made_shards)
    assert [line.split()[0] for line in printed] == [ref.key for ref in index]
    first = decode(made_shards, index[0])
    assert printed[0] == f"{index[0].key} 8 (32, 32) {first.labels[0, 0, 0, 0]}"


def test_its_webdataset_reader_finds_every_clip(made_shards):
    printed = run(BLOCKS[1], made_shards)
    keys = [ref.key for ref in all_refs(made_shards)]
    assert printed == [f"{key} (8, 32, 32, 3) (8, 32, 32)" for key in keys]


def test_its_random_access_reads_one_clip_and_no_more(made_shards):
    (printed,) = run(BLOCKS[2], made_shards)
    refs = all_refs(made_shards)
    last = [ref for ref in refs if ref.shard == refs[0].shard][-1]
    assert printed.startswith(f"{last.key} [")
    assert printed.count("'") // 2 == 8 + 8 + 1


def test_the_digest_is_what_the_page_says(made_shards):
    values = json.loads((made_shards / "manifest.json").read_text("utf-8"))
    del values["index"]
    assert values.pop("digest") == digest(values)


def test_the_index_opens_as_the_page_says(made_shards):
    printed = run(BLOCKS[3], made_shards)
    assert printed[0] == "4 clips"
    assert [line.split()[0] for line in printed[1:]] == ["quarantined", "rejected", "sampled"]


def test_every_stored_field_is_on_the_page(made_shards):
    manifest = json.loads((made_shards / "manifest.json").read_text("utf-8"))
    index = Index(made_shards, load_manifest(made_shards))
    sidecar = json.loads(next(made_shards.glob("shard-*.json")).read_text("utf-8"))
    meta = decode(made_shards, all_refs(made_shards)[0]).meta
    stored = {
        *manifest, *sidecar, *index.shard_table.column_names, *index.source_table.column_names,
        *next(index.clip_tables()).column_names, *manifest["statistics"],
        *sidecar["label_statistics"], *meta, *meta["codebooks"][0],
    } - {"label_statistics"}  # fmt: skip
    assert [name for name in sorted(stored) if f"`{name}`" not in PAGE] == []


# Webdataset leaves closing to the collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_clips_go_through_webdatasets_own_pipeline_of_shuffling_and_batching(made_shards):
    import webdataset as wds

    def frames_and_labels(sample):
        clip = decode_clip(
            {f"{sample['__key__']}.{name}": data for name, data in sample.items() if name[0] != "_"}
        )
        return clip.frames, clip.labels[0]

    urls = [str(path) for path in sorted(made_shards.glob("*.tar"))]
    data = (
        wds.WebDataset(urls, shardshuffle=100, seed=1).shuffle(10).map(frames_and_labels).batched(3)
    )
    batches = list(data)
    assert (
        sum(len(frames) for frames, _ in batches)
        == load_manifest(made_shards).statistics.samples
        == 4
    )
    assert batches[0][0].shape == (3, 8, 32, 32, 3)
    assert batches[0][1].dtype == np.uint8


def test_the_example_in_the_package_docstring_prints_the_first_clip(
    made_shards, monkeypatch, capsys
):
    monkeypatch.chdir(made_shards.parent)
    (example,) = re.findall(r"::\n\n((?: {4}.*\n)+)", corrfractal.shards.__doc__)
    exec(textwrap.dedent(example), {})
    first = all_refs(made_shards)[0]
    assert capsys.readouterr().out == f"{first.key} (8, 32, 32, 3) (1, 8, 32, 32)\n"


def all_refs(folder):
    return list(Index(folder, load_manifest(folder)).sample_refs())


def decode(folder, ref):
    with (folder / ref.shard).open("rb") as file:
        file.seek(ref.offset)
        return decode_clip(read_members(file.read(ref.length)))
