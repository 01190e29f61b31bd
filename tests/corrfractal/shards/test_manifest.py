from __future__ import annotations

import json

import pytest

from corrfractal.common.errors import IntegrityError
from corrfractal.shards.manifest import (
    IndexFile,
    LabelStatistics,
    Manifest,
    SampleEntry,
    Sidecar,
    Statistics,
    read_sealed,
    seal,
    to_text,
)

SHA256 = "0" * 64


def sidecar(**sample):
    """A sealed sidecar with one clip."""
    values = {"key": "a_0", "offset": 0, "length": 512, "frames": 8, "views": 1, **sample}
    document = Sidecar(
        name="shard-0123456789abcdef.tar",
        spec="",
        sha256=SHA256,
        bytes=512,
        samples=(SampleEntry(**values),),
        sources=(),
        label_statistics=LabelStatistics(),
    )
    return seal(document)


def manifest(**file):
    """A sealed manifest with one index file."""
    values = {"name": "index/shards.parquet", "sha256": SHA256, "rows": 1, **file}
    statistics = Statistics(
        samples=1,
        frames=8,
        bytes=512,
        sources=0,
        sampled=0,
        quarantined=0,
        rejected=0,
        cuts=0,
        static=0,
        labels=LabelStatistics(),
    )
    document = Manifest(
        schema=4,
        config={},
        config_digest="",
        versions={},
        shards_digest=SHA256,
        sources_digest=SHA256,
        statistics=statistics,
        index=(IndexFile(**values),),
    )
    return seal(document)


@pytest.mark.parametrize("document", [sidecar(), manifest()], ids=["sidecar", "manifest"])
def test_a_sealed_document_is_read_unchanged(tmp_path, document):
    (tmp_path / "document.json").write_text(to_text(document))
    assert read_sealed(tmp_path / "document.json", type(document)) == document


@pytest.mark.parametrize(
    "document",
    [
        sidecar(offset=-512),
        sidecar(length=-1),
        sidecar(frames=-1),
        sidecar(views=-1),
        manifest(rows=-1),
        manifest(name="../shards.parquet"),
        manifest(name="index/../../shards.parquet"),
        manifest(name="index/shards.parquet\n"),
        manifest(sha256="0" * 63),
        manifest(sha256="A" * 64),
    ],
)
def test_values_that_are_no_positions_names_or_hashes_are_refused(tmp_path, document):
    (tmp_path / "document.json").write_text(to_text(document))
    with pytest.raises(IntegrityError, match=r"document\.json is damaged: run"):
        read_sealed(tmp_path / "document.json", type(document))


@pytest.mark.parametrize("change", [{"bytes": 513}, {"unknown": 1}], ids=str)
def test_a_changed_field_breaks_the_seal(tmp_path, change):
    values = json.loads(to_text(sidecar())) | change
    (tmp_path / "document.json").write_text(json.dumps(values))
    with pytest.raises(IntegrityError, match="its digest does not fit"):
        read_sealed(tmp_path / "document.json", Sidecar)


def test_a_missing_document_is_named(tmp_path):
    with pytest.raises(IntegrityError, match=r"none\.json is missing"):
        read_sealed(tmp_path / "none.json", Sidecar)


def test_label_statistics_are_added_by_rank():
    first = LabelStatistics(by_rank=(3, 1), by_used=(0, 1), compared=4, changed=1)
    second = LabelStatistics(by_rank=(4,), by_used=(1,), compared=4, changed=1)
    total = first + second
    assert total.by_rank == (7, 1)
    assert total.label_sets == 2
    assert total.occupancy == (7 / 8, 1 / 8)
    assert total.change_rate == 0.25
    assert LabelStatistics().occupancy == ()
