"""Many sources in little memory: packed columns instead of objects."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .lazy_sequence import LazySequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One video.

    Attributes:
        uri: what shards and reports call it, see ``corrfractal.video.discovery``.
        path: where it is stored for this run, a local path or a URI; no digest depends on it.
        bytes: its size; of a frame folder, the sum over its frames.
        files: number of frames of a frame folder; 0 for a video file.
        stamp: changes when it is written to; ``""`` if the listing proves nothing, because the file
            changed just now or the store states no time. No digest depends on it.
        fault: why it cannot be read; ``""`` if it can.
    """

    uri: str
    path: str
    bytes: int = 0
    files: int = 0
    stamp: str = ""
    fault: str = ""


class PackedTexts(LazySequence[str]):
    """Many short texts in one buffer: a text of its own takes 50 bytes more."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._buffer = bytearray()
        self._ends = array("q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add one."""
        # File names need not be UTF-8.
        self._buffer += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._buffer))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def item(self, row: int) -> str:
        """One of them."""
        text = self._buffer[self._ends[row] : self._ends[row + 1]]
        return text.decode("utf-8", "surrogateescape")


class SourceTable(LazySequence[Source]):
    """Sources in 200 bytes each instead of 400.

    Attributes:
        uris: objects, not packed, since other tables have the same ones as keys.
        stamps: packed.
        faults: of the few sources that have one, by position.
    """

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self.uris: list[str] = []
        self.stamps = PackedTexts()
        self.faults: dict[int, str] = {}
        self._paths = PackedTexts()
        self._bytes = array("q")
        self._files = array("i")
        for source in sources:
            self.append(source)

    def append(self, source: Source) -> None:
        """Add one."""
        if source.fault:
            self.faults[len(self)] = source.fault
        self.uris.append(source.uri)
        self.stamps.append(source.stamp)
        self._paths.append(source.path)
        self._bytes.append(source.bytes)
        self._files.append(source.files)

    @property
    def bytes(self) -> npt.NDArray[np.int64]:
        """Size of each, not copied."""
        return np.asarray(self._bytes)

    @property
    def files(self) -> npt.NDArray[np.int32]:
        """Number of frames of each frame folder, not copied."""
        return np.asarray(self._files)

    def __len__(self) -> int:
        return len(self.uris)

    def item(self, row: int) -> Source:
        """One of them."""
        return Source(
            uri=self.uris[row],
            path=self._paths[row],
            bytes=self._bytes[row],
            files=self._files[row],
            stamp=self.stamps[row],
            fault=self.faults.get(row, ""),
        )


def as_table(sources: Sequence[Source]) -> SourceTable:
    """The sources as a table, which most are already."""
    return sources if isinstance(sources, SourceTable) else SourceTable(sources)
