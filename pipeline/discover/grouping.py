"""Sources -> groups, one shard each: boundaries follow from the sources' names, not from their
place.

A group ends after a source whose name hashes below a threshold, one in ``mean`` on average. Where
chance leaves no such name for too long, a run is cut after the name with the lowest hash, and its
parts again until they fit. So the groups are a function of the set of sources alone, whatever was
added or removed before, and a new source changes the group that it falls into and at most a
neighbour that this group is cut from (content-defined chunking; W. Xia et al., FastCDC, 2016, use
it for bytes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

HASH_RANGE = 1 << 64


class Member(Protocol):
    """What is grouped."""

    @property
    def uri(self) -> str:
        """Unique; decides the boundaries."""
        ...

    @property
    def bytes(self) -> int:
        """Size, for the bound of a group."""
        ...


M = TypeVar("M", bound=Member)


def group(members: Sequence[M], *, mean: int, most: int, most_bytes: int) -> Iterator[Sequence[M]]:
    """Cut a sorted sequence into groups.

    Args:
        members: sorted by URI.
        mean: wanted number of members of a group.
        most: members of a group, at most.
        most_bytes: bytes of a group of more than one member, at most.
    """
    threshold = HASH_RANGE // mean
    start = 0
    hashes = [name_hash(member.uri) for member in members]
    for position, value in enumerate(hashes):
        if value < threshold or position == len(members) - 1:
            stop = position + 1
            yield from _fit(members, hashes, start, stop, most, most_bytes)
            start = stop


def name_hash(uri: str) -> int:
    """64 bits of the SHA-256 of a name."""
    return int.from_bytes(hashlib.sha256(uri.encode()).digest()[:8], "big")


def _fit(
    members: Sequence[M], hashes: Sequence[int], start: int, stop: int, most: int, most_bytes: int
) -> Iterator[Sequence[M]]:
    """The run from ``start`` up to ``stop``, cut after its lowest hash until its parts fit."""
    # A stack and no recursion: equal hashes could make the cuts as lopsided as the run is long.
    waiting = [(start, stop)]
    while waiting:
        first, end = waiting.pop()
        count = end - first
        fits = count <= most and sum(member.bytes for member in members[first:end]) <= most_bytes
        if fits or count == 1:
            yield members[first:end]
            continue
        cut = min(range(first, end - 1), key=hashes.__getitem__) + 1
        waiting += [(cut, end), (first, cut)]
