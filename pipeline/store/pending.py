"""Shards that are still to be built, as tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from corrfractal.files import storage
from pipeline.discover.lazy_sequence import LazySequence
from pipeline.discover.work_plan import ShardSpec, ShardSpecs


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """A shard to build.

    Attributes:
        spec: what it is made of.
        earlier: see ``shard_task.make_shard``.
        rebuild: an existing shard is not looked for.
    """

    spec: ShardSpec
    earlier: dict[str, str]
    rebuild: bool = False


class PendingTasks(LazySequence[ShardTask]):
    """The tasks of a build; those of a million sources would take 500 MB as objects.

    Args:
        shards: of the plan.
        numbers: of the shards to build or to check.
        rebuild: those of them of which an existing shard is not looked for.
        earlier: name of the shard that holds clips of a segment, by name of the segment.

    Attributes:
        segments: number of all segments.
    """

    def __init__(
        self,
        shards: ShardSpecs,
        numbers: Sequence[int] = (),
        rebuild: Set[int] = frozenset(),
        earlier: Mapping[str, str] | None = None,
    ) -> None:
        self._numbers = numbers
        self.segments = sum(len(shards.rows(number)) for number in numbers)
        self._shards = shards
        self._rebuild = rebuild
        self._earlier = earlier or {}

    def __len__(self) -> int:
        return len(self._numbers)

    def item(self, row: int) -> ShardTask:
        """One of them."""
        number = self._numbers[row]
        spec = self._shards[number]
        rebuild = number in self._rebuild
        names = [] if rebuild or not self._earlier else [segment.name for segment in spec.segments]
        own = {name: self._earlier[name] for name in names if name in self._earlier}
        return ShardTask(spec=spec, earlier=own, rebuild=rebuild)

    def share_copies(self) -> bool:
        """Whether there are segments of a long remote video."""
        long = (number for number in self._numbers if self._shards.counts[number] > 1)
        return any(storage.is_uri(self._shards[number].segments[0].source.path) for number in long)
