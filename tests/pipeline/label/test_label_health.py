from __future__ import annotations

from dataclasses import replace

import pytest

from corrfractal.shards.index import Index, shard_rows
from corrfractal.shards.manifest import LabelStatistics, Sidecar, SourceEntry, load_manifest
from pipeline.label.label_health import data_set_health, shards_health


def sidecar(labels, *sources):
    return Sidecar(
        name="shard-0123456789abcdef.tar",
        spec="",
        sha256="",
        bytes=0,
        samples=(),
        sources=sources,
        label_statistics=labels,
    )


class OneShard(Index):
    """The index of one sidecar, without files."""

    def __init__(self, sidecar):
        self.shard_table = shard_rows([sidecar])


def shard_health(sidecar, clusters, manifest):
    config = {"quantization": {"clusters": clusters}}
    (health,) = shards_health(replace(manifest, config=config), OneShard(sidecar))
    return health


@pytest.fixture
def manifest(made_shards):
    return load_manifest(made_shards)


def test_rates_are_shares_of_label_sets_of_clips_and_of_minutes(manifest):
    labels = LabelStatistics(
        by_rank=(4, 4), by_used=(1, 3), dominated=1, still=2, compared=10, changed=3
    )  # four label sets, one of which uses one label only
    source = SourceEntry(
        uri="a", sha256="", outcome="sampled", frames=2400, fps=20, segments=2, cuts=3, static=5
    )
    health = shard_health(sidecar(labels, source), clusters=2, manifest=manifest)
    assert (health.label_sets, health.entropy, health.change_rate) == (4, 1, 0.3)
    assert (health.empty, health.with_empty, health.dominated, health.still) == (
        0.25,
        0.25,
        0.25,
        0.5,
    )
    assert (health.cuts, health.cuts_per_minute) == (3, 3)  # half of two minutes
    assert (health.static, health.static_rate) == (5, 1)


def test_fewer_labels_than_clusters_are_empty_clusters(manifest):
    labels = LabelStatistics(by_rank=(4, 4), by_used=(0, 1, 0))
    assert shard_health(sidecar(labels), clusters=3, manifest=manifest).empty == 1
    assert shard_health(sidecar(labels), clusters=2, manifest=manifest).with_empty == 0


def test_a_shard_of_nothing_has_health_without_a_division_by_zero(manifest):
    assert shard_health(sidecar(LabelStatistics()), clusters=16, manifest=manifest).occupancy == ()


def test_the_health_of_all_is_that_of_the_sum_of_the_shards(made_shards, manifest):
    index = Index(made_shards, manifest)
    total = sum(index.label_statistics(), LabelStatistics())
    assert total == manifest.statistics.labels
    assert total.label_sets == manifest.statistics.samples == 4
    together = shard_health(sidecar(total), 16, manifest)
    found = data_set_health(manifest, index)
    assert found.entropy == pytest.approx(together.entropy)
    assert 1 < found.entropy <= 4
