from __future__ import annotations

from dataclasses import replace

import pytest

from corrfractal.shards.manifest import (
    LabelStatistics,
    Sidecar,
    SourceEntry,
    load_manifest,
    load_sidecar,
)
from pipeline.label.label_health import data_set_health, shard_health


def sidecar(labels, *sources):
    return Sidecar(
        name="shard-000000.tar",
        spec="",
        sha256="",
        bytes=0,
        samples=(),
        sources=sources,
        label_statistics=labels,
    )


def test_rates_are_shares_of_label_sets_of_clips_and_of_minutes():
    labels = LabelStatistics(
        by_rank=(4, 4), by_used=(1, 3), dominated=1, still=2, compared=10, changed=3
    )  # four label sets, one of which uses one label only
    source = SourceEntry(
        uri="a", sha256="", outcome="sampled", frames=2400, fps=20, segments=2, cuts=3, static=5
    )
    health = shard_health(sidecar(labels, source), clusters=2)
    assert (health.label_sets, health.entropy, health.change_rate) == (4, 1, 0.3)
    assert (health.empty, health.with_empty, health.dominated, health.still) == (
        0.25,
        0.25,
        0.25,
        0.5,
    )
    assert (health.cuts, health.cuts_per_minute) == (3, 3)  # half of two minutes
    assert (health.static, health.static_rate) == (5, 1)


def test_fewer_labels_than_clusters_are_empty_clusters():
    labels = LabelStatistics(by_rank=(4, 4), by_used=(0, 1, 0))
    assert shard_health(sidecar(labels), clusters=3).empty == 1
    assert shard_health(sidecar(labels), clusters=2).with_empty == 0


def test_a_shard_of_nothing_has_health_without_a_division_by_zero():
    assert shard_health(sidecar(LabelStatistics()), clusters=16).occupancy == ()


def test_the_health_of_all_is_that_of_the_sum_of_the_shards(made_shards):
    manifest = load_manifest(made_shards)
    sidecars = [load_sidecar(made_shards, shard) for shard in manifest.shards]
    total = sum((one.label_statistics for one in sidecars), LabelStatistics())
    assert total == manifest.statistics.labels
    assert total.label_sets == manifest.statistics.samples == 4
    together = replace(sidecars[0], label_statistics=total)
    assert data_set_health(manifest).entropy == pytest.approx(shard_health(together, 16).entropy)
    assert 1 < data_set_health(manifest).entropy <= 4
