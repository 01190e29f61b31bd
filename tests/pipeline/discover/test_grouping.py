"""Groups of sources are a function of the set alone, and a change of one source stays local."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from pipeline.discover.grouping import group

MEAN = 8
MOST = 16
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Named:
    uri: str
    bytes: int = MEGABYTE


def groups(members: list[Named], most_bytes: int = 1 << 40) -> list[tuple[str, ...]]:
    ordered = sorted(members, key=lambda member: member.uri)
    found = group(ordered, mean=MEAN, most=MOST, most_bytes=most_bytes)
    return [tuple(member.uri for member in part) for part in found]


def listing(count: int, seed: int = 0) -> list[Named]:
    rng = random.Random(seed)
    return [Named(f"videos/{rng.randrange(1 << 40):012x}.mp4") for _ in range(count)]


def test_every_source_is_in_one_group_in_order() -> None:
    members = listing(1000)
    found = groups(members)
    assert [uri for part in found for uri in part] == sorted(member.uri for member in members)


def test_groups_have_about_the_wanted_size_and_never_more_than_the_bound() -> None:
    found = groups(listing(20_000))
    sizes = [len(part) for part in found]
    assert max(sizes) <= MOST
    assert sum(sizes) / len(sizes) == pytest.approx(0.75 * MEAN, rel=0.15)


def test_bytes_of_a_group_are_bounded_but_for_a_single_large_source() -> None:
    members = [Named(f"{i:05}", bytes=(1 + i % 7) * MEGABYTE) for i in range(500)]
    members += [Named("00250-large", bytes=100 * MEGABYTE)]
    sizes = {member.uri: member.bytes for member in members}
    for part in groups(members, most_bytes=20 * MEGABYTE):
        assert len(part) == 1 or sum(sizes[uri] for uri in part) <= 20 * MEGABYTE


@pytest.mark.parametrize("change", ["add", "remove"])
def test_a_change_of_one_source_changes_two_groups_at_most(change: str) -> None:
    members = listing(10_000)
    before = set(groups(members))
    rng = random.Random(1)
    changed = []
    for _ in range(60):
        if change == "add":
            after = groups([*members, Named(f"videos/{rng.randrange(1 << 40):012x}.mp4")])
        else:
            after = groups([*members[: (k := rng.randrange(len(members)))], *members[k + 1 :]])
        changed.append(len(set(after) - before))
    assert max(changed) <= 3
    assert sum(count > 2 for count in changed) <= 3


def test_long_runs_without_a_boundary_are_cut_in_any_case() -> None:
    same = [Named(f"{i}") for i in range(3)]
    assert sum(len(part) for part in groups(same * 1)) == 3
    assert groups([]) == []
