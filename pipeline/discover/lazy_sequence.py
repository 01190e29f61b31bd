"""Sequences of a million objects that exist as columns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

T = TypeVar("T", covariant=True)


class LazySequence(Sequence[T]):
    """A sequence that makes an item each time it is asked for one."""

    @abstractmethod
    def item(self, row: int) -> T:
        """The item at ``row``, which is not negative."""

    @overload
    def __getitem__(self, position: int) -> T: ...

    @overload
    def __getitem__(self, position: slice) -> list[T]: ...

    def __getitem__(self, position: int | slice) -> T | list[T]:
        if isinstance(position, slice):
            return [self.item(row) for row in range(*position.indices(len(self)))]
        return self.item(range(len(self))[position])

    def __iter__(self) -> Iterator[T]:
        return map(self.item, range(len(self)))
