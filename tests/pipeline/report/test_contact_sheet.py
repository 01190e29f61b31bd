"""The contact sheet and the text say what is in the shards, fetch nothing, and are the same for the
same seed."""

from __future__ import annotations

import base64
import collections
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from corrfractal.common.errors import IntegrityError, NotFoundError
from corrfractal.files import storage
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import load_manifest
from pipeline.report.contact_sheet import write_sheet
from pipeline.report.inspection import inspect, lines


class Page(HTMLParser):
    """Pictures and table rows of a page; every address in it."""

    def __init__(self, text):
        super().__init__()
        self.pictures, self.addresses, self.rows, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        if tag == "img":
            self.pictures.append(values["src"])
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data):
        self.words.append(data)
        if self.rows:
            self.rows[-1] += data


@pytest.fixture(scope="module")
def sheet(made_shards, tmp_path_factory):
    path = tmp_path_factory.mktemp("sheet") / "new" / "sheet.html"
    write_sheet(path, inspect(made_shards), clips=3, seed=1)
    return path.read_text("utf-8")


def test_a_sheet_fetches_nothing(sheet):
    addresses = Page(sheet).addresses
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    assert not re.search(r"@import|url\((?!data:)|<script", sheet)


def test_a_sheet_shows_frames_beside_their_labels(sheet, made_shards):
    pictures = Page(sheet).pictures
    assert len(pictures) == 3 * (4 + 4)
    images = [
        Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        for address in pictures[:8]
    ]
    assert [image.mode for image in images] == ["RGB"] * 4 + ["P"] * 4
    assert all(np.array(image).max() < 16 for image in images[4:])


def test_a_sheet_names_every_lost_source_with_its_reason(sheet, made_shards):
    rows = Page(sheet).rows
    lost = list(Index(made_shards, load_manifest(made_shards)).lost_sources())
    assert len(lost) == 4
    for source in lost:
        assert any(
            source.uri in row and source.reason in row and source.outcome in row for row in rows
        )


def test_the_seed_decides_the_clips(made_shards, tmp_path, sheet):
    found = inspect(made_shards)
    write_sheet(tmp_path / "again.html", found, clips=3, seed=1)
    assert (tmp_path / "again.html").read_text("utf-8") == sheet
    shown = set()
    for seed in range(6):
        write_sheet(tmp_path / "other.html", found, clips=1, seed=seed)
        shown.add(Page((tmp_path / "other.html").read_text("utf-8")).pictures[0])
    assert len(shown) > 1


def test_shards_in_a_store_are_read_clip_by_clip(made_shards, tmp_path, sheet):
    for path in made_shards.rglob("*"):
        if path.is_file():
            name = path.relative_to(made_shards)
            storage.write(f"memory://inspected/shards/{name}", path.read_bytes())
    write_sheet(tmp_path / "sheet.html", inspect("memory://inspected/shards"), clips=3, seed=1)
    assert (tmp_path / "sheet.html").read_text("utf-8") == sheet


def test_a_damaged_clip_is_named(made_shards, tmp_path):
    out = shutil.copytree(made_shards, tmp_path / "out")
    for tar in out.glob("*.tar"):
        tar.write_bytes(b"x" * tar.stat().st_size)
    with pytest.raises(
        IntegrityError, match=r"shard-[0-9a-f]{16}\.tar, clip at byte .*corrfractal verify"
    ):
        write_sheet(tmp_path / "sheet.html", inspect(out))
    with pytest.raises(NotFoundError, match="no finished shards"):
        inspect(tmp_path)


def test_the_text_has_health_of_all_and_each_shard_and_every_lost_source(made_shards):
    found = inspect(made_shards)
    text = "\n".join(lines(found))
    assert "6 sources = 2 sampled + 3 quarantined + 1 rejected" in text
    assert f"{found.health.entropy:.2f} bits a pixel of at most 4" in text
    assert all(f"{shard.name.removesuffix('.tar')} " in text for shard in found.by_shard)
    assert all(source.uri in text for source in found.lost)
    command = [sys.executable, "-m", "corrfractal", "inspect", str(made_shards), "--json"]
    printed = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert printed["health"]["entropy"] == found.health.entropy
    assert printed["counts"]["by_outcome"] == {"quarantined": 3, "sampled": 2, "rejected": 1}
    assert sum(printed["counts"]["by_decoder"].values()) == 6
    assert printed["counts"]["reasons"] == len(printed["counts"]["by_reason"])
    sizes = [path.stat().st_size for path in made_shards.glob("*.tar")]
    assert printed["counts"]["shard_bytes"]["min"] == min(sizes)
    assert printed["counts"]["shard_bytes"]["max"] == max(sizes)
    assert len(printed["by_shard"]) == len(found.by_shard)


def test_reasons_and_decoders_are_counted_most_frequent_first(made_shards):
    index = Index(made_shards, load_manifest(made_shards))
    counts = inspect(made_shards).counts
    lost = [(s.outcome, s.stage, s.reason) for s in index.lost_sources()]
    counted = {(r.outcome, r.stage, r.reason): r.sources for r in counts.by_reason}
    assert counted == collections.Counter(lost)
    numbers = [reason.sources for reason in counts.by_reason]
    assert numbers == sorted(numbers, reverse=True)
    decoders = collections.Counter(source.decoder for source in index.sources)
    assert counts.by_decoder == decoders


def test_the_sheet_draws_clips_from_every_part_of_the_index(made_shards, tmp_path, monkeypatch):
    import corrfractal.shards.index as index_module

    out = shutil.copytree(made_shards, tmp_path / "out")
    manifest = load_manifest(out)
    index = Index(out, manifest)
    expected = [replace(ref, key="") for ref in index.sample_refs()]
    # The same clips in parts of three instead of a million
    monkeypatch.setattr(index_module, "CLIPS_PER_PART", 3)
    clips = pa.concat_tables(index.clip_tables())
    files = index_module.write_index(out, index.shard_table, clips, index.source_table)
    assert len(files) == 4
    parts = Index(out, replace(manifest, index=files))
    assert parts.clip_refs([3, 0]) == [expected[3], expected[0]]
    assert parts.clip_refs([]) == []
    with pytest.raises(IndexError, match=r"0\.\.3"):
        parts.clip_refs([4])
